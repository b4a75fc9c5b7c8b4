# Everything here is a Debian 12 package; scripts/install-dependencies names them.
find_package(Threads REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
set(HDF5_PREFER_PARALLEL ON)
find_package(HDF5 REQUIRED COMPONENTS C)
if(NOT HDF5_IS_PARALLEL)
  message(FATAL_ERROR "ringscan needs parallel HDF5 (Debian: libhdf5-openmpi-dev); found a serial one: ${HDF5_C_LIBRARIES}")
endif()
find_package(Boost 1.74 REQUIRED COMPONENTS program_options)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(FFTW REQUIRED IMPORTED_TARGET fftw3f)  # long convolutions, in single precision
# The projections of the Mamba block, and the peer that `bench kernels` measures.
find_library(DNNL_LIBRARY dnnl REQUIRED)
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)  # oneDNN's threads, which we do without
add_library(ringscan_onednn INTERFACE)
target_include_directories(ringscan_onednn SYSTEM INTERFACE "${DNNL_INCLUDE_DIR}")
target_link_libraries(ringscan_onednn INTERFACE "${DNNL_LIBRARY}" OpenMP::OpenMP_CXX)

add_library(ringscan_hdf5 INTERFACE)
target_include_directories(ringscan_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_link_libraries(ringscan_hdf5 INTERFACE ${HDF5_C_LIBRARIES} MPI::MPI_C)
target_compile_definitions(ringscan_hdf5 INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
