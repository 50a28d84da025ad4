# CUDA kernels of the native library: included by CMakeLists.txt where MMEDGE_CUDA is on, after the
# target `mmedge_kernels` was made.
#
# MMEDGE_CUDA_ARCHITECTURES says for which GPUs: numbers as in sm_NN. By default all that this
# toolkit can build for; one is enough on the device itself, and builds eight times as fast:
#   -DMMEDGE_CUDA_ARCHITECTURES=87   (Jetson Orin)

find_program(
  MMEDGE_NVCC nvcc
  HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH
  PATHS /usr/local/cuda
  PATH_SUFFIXES bin
  DOC "CUDA compiler")
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT MMEDGE_NVCC)
    message(
      FATAL_ERROR
        "MMEDGE_CUDA is on, but no CUDA toolkit was found: nvcc is neither on PATH nor in CUDACXX, "
        "CUDA_HOME, CUDA_PATH or /usr/local/cuda. Install one (nvcc >= 12.4), say where it is with "
        "-DCMAKE_CUDA_COMPILER=/path/to/nvcc, or turn MMEDGE_CUDA off.")
  endif()
  set(CMAKE_CUDA_COMPILER ${MMEDGE_NVCC})
endif()

# What we build for and what this toolkit can, before CMake tries the compiler: by itself it would
# take an architecture that new toolkits refuse.
execute_process(
  COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch
  OUTPUT_VARIABLE supported
  RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${CMAKE_CUDA_COMPILER} --list-gpu-arch failed: is it nvcc >= 12.4?")
endif()
string(REGEX MATCHALL "[0-9]+" supported "${supported}")
set(defaults 80 86 87 89 90 100 110 120)
foreach(arch IN LISTS defaults)
  if(NOT arch IN_LIST supported)
    list(REMOVE_ITEM defaults ${arch})
  endif()
endforeach()
set(MMEDGE_CUDA_ARCHITECTURES "${defaults}" CACHE STRING "GPUs to build for: numbers as in sm_NN")
foreach(arch IN LISTS MMEDGE_CUDA_ARCHITECTURES)
  if(NOT arch IN_LIST supported)
    list(JOIN supported ", " text)
    message(
      FATAL_ERROR
        "MMEDGE_CUDA_ARCHITECTURES: ${CMAKE_CUDA_COMPILER} cannot build for '${arch}'; it can for "
        "${text}. Leave it out, or use another toolkit with -DCMAKE_CUDA_COMPILER=/path/to/nvcc.")
  endif()
  if(arch LESS 80)
    message(FATAL_ERROR "MMEDGE_CUDA_ARCHITECTURES: the kernels need sm_80 or later, got '${arch}'")
  endif()
endforeach()
list(LENGTH MMEDGE_CUDA_ARCHITECTURES count)
if(count EQUAL 0)
  message(FATAL_ERROR "MMEDGE_CUDA_ARCHITECTURES is empty; name at least one, such as 87")
endif()

# Machine code for each, and PTX for the newest, which later GPUs can compile.
set(newest 0)
foreach(arch IN LISTS MMEDGE_CUDA_ARCHITECTURES)
  if(arch GREATER newest)
    set(newest ${arch})
  endif()
endforeach()
set(architectures ${MMEDGE_CUDA_ARCHITECTURES})
list(TRANSFORM architectures APPEND "-real")
list(APPEND architectures "${newest}-virtual")
set(CMAKE_CUDA_ARCHITECTURES ${architectures})
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
list(JOIN MMEDGE_CUDA_ARCHITECTURES "," text)
message(STATUS "mmedge: CUDA kernels for sm_ ${text} (nvcc ${CMAKE_CUDA_COMPILER_VERSION})")

# A file for each dtype and width, to be compiled side by side.
add_library(mmedge_cuda_kernels OBJECT)
foreach(element Float16 BFloat16)
  foreach(width 32 64 96 128)
    configure_file(kernels/cuda/instance.cu.in cuda/attend_${element}_${width}.cu @ONLY)
    target_sources(mmedge_cuda_kernels
                   PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/cuda/attend_${element}_${width}.cu)
  endforeach()
endforeach()
# Options of the directory are the C++ compiler's.
set_target_properties(mmedge_cuda_kernels PROPERTIES COMPILE_OPTIONS ""
                                                     CUDA_VISIBILITY_PRESET hidden)
target_compile_definitions(mmedge_cuda_kernels PRIVATE MMEDGE_BUILD)
# Machine code of eight architectures is a quarter of its size when compressed.
target_compile_options(mmedge_cuda_kernels PRIVATE -Xfatbin=-compress-all)
target_include_directories(mmedge_cuda_kernels PRIVATE . include kernels/cuda)

# The target is older than the language, and so has none of its defaults.
set_target_properties(mmedge_kernels PROPERTIES CUDA_ARCHITECTURES "${architectures}")
target_sources(
  mmedge_kernels PRIVATE $<TARGET_OBJECTS:mmedge_cuda_kernels> api/segattn_cuda.cpp
                         kernels/cuda/plan.cpp kernels/cuda/support.cpp)
set_source_files_properties(
  api/segattn_cuda.cpp PROPERTIES COMPILE_DEFINITIONS MMEDGE_CUDA_ARCHITECTURES="${text}")
# The runtime is part of the library: nothing but the driver must be installed to load it.
target_link_libraries(mmedge_kernels PRIVATE CUDA::cudart_static)
