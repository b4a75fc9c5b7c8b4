find_package(Catch2 REQUIRED)  # 2.13 (Debian 12) and 3.x both compile

# ringscan_test(NAME SOURCES... [LIBRARIES ...] [RANKS 1 2 3 ...] [LABELS ...])
#
# One executable. Without RANKS it is run once, as one process (ranks, where it has any, are threads). With RANKS it is
# run under mpirun once for each number, and its main starts MPI.
function(ringscan_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES;RANKS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ringscan_flags ringscan_test_support Catch2::Catch2 ${ARG_LIBRARIES})
  if(NOT ARG_RANKS)
    target_link_libraries(${name} PRIVATE ringscan_test_main)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS "unit;${ARG_LABELS}" TIMEOUT 900)
    return()
  endif()
  target_link_libraries(${name} PRIVATE ringscan_test_main_mpi)
  foreach(ranks IN LISTS ARG_RANKS)
    add_test(NAME ${name}.ranks${ranks}
             COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe -n ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}.ranks${ranks} PROPERTIES LABELS "mpi;${ARG_LABELS}" PROCESSORS 2 TIMEOUT 900
      ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_mpi_yield_when_idle=1;OMPI_MCA_rmaps_base_oversubscribe=1")
  endforeach()
endfunction()

# ringscan_ranks_test(NAME SOURCES... RANKS 1 2 3 ... [LIBRARIES ...] [DEFINITIONS ...])
#
# The engine over ranks: compiled once, linked to what makes ranks of threads (NAME_local) and to MPI (NAME_mpi).
function(ringscan_ranks_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES;DEFINITIONS;RANKS" ${ARGN})
  add_library(${name}_cases OBJECT ${ARG_SOURCES})
  target_link_libraries(${name}_cases PRIVATE ringscan_flags ringscan_test_support Catch2::Catch2 ringscan_engine
                                              ${ARG_LIBRARIES})
  target_compile_definitions(${name}_cases PRIVATE ${ARG_DEFINITIONS})
  ringscan_test(${name}_local SOURCES $<TARGET_OBJECTS:${name}_cases>
                LIBRARIES ringscan_local_ranks ringscan_engine ${ARG_LIBRARIES} LABELS threads)
  ringscan_test(${name}_mpi SOURCES $<TARGET_OBJECTS:${name}_cases>
                LIBRARIES ringscan_mpi_ranks ringscan_engine ringscan_comm_mpi ${ARG_LIBRARIES} RANKS ${ARG_RANKS})
endfunction()
