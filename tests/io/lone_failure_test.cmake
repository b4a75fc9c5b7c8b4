# Runs PROGRAM under mpirun; it must end by itself within 30 s, unwound, with its target untouched and nothing beside it.
execute_process(COMMAND mktemp -d OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
file(WRITE "${folder}/out.h5" "precious")
execute_process(COMMAND ${MPIEXEC} --oversubscribe -n 3 ${PROGRAM} "${folder}/in.h5" "${folder}/out.h5"
                TIMEOUT 30 RESULT_VARIABLE result ERROR_VARIABLE said OUTPUT_VARIABLE said)
file(READ "${folder}/out.h5" target)
file(GLOB left RELATIVE "${folder}" "${folder}/*")
file(REMOVE_RECURSE "${folder}")
if(NOT result EQUAL 3 OR NOT said MATCHES "unwound: alone")
  message(FATAL_ERROR "ended with '${result}', not by itself: ${said}")
endif()
if(NOT target STREQUAL "precious" OR NOT left STREQUAL "in.h5;out.h5")
  message(FATAL_ERROR "target '${target}', files left: ${left}")
endif()
