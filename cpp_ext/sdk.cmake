# libmmedge, its tools, and what an application needs to build with them. Included by CMakeLists.txt.
#
# `cmake --install` puts bin, include and lib below the prefix. In a wheel include and lib lie in the
# folder mmedge/sdk of the package; `python -m mmedge.sdk` says where.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

if(SKBUILD_PROJECT_VERSION)
  set(MMEDGE_VERSION ${SKBUILD_PROJECT_VERSION})
  set(sdk mmedge/sdk/)
  set(libraries mmedge/sdk/lib)
else()
  file(STRINGS ${CMAKE_CURRENT_SOURCE_DIR}/../pyproject.toml line REGEX "^version = " LIMIT_COUNT 1)
  string(REGEX MATCH "[0-9.]+" MMEDGE_VERSION "${line}")
  set(sdk "")
  set(libraries ${CMAKE_INSTALL_LIBDIR})
endif()

add_library(mmedge SHARED api/bundle.cpp api/runtime.cpp api/stream.cpp api/stream_options.cpp
            api/backend.cpp api/text.cpp $<TARGET_OBJECTS:mmedge_kernels_cpu>)
if(NOT MMEDGE_SANITIZE)
  # Neither a new C library nor a new C++ library is asked of the system that it runs on.
  target_sources(mmedge PRIVATE api/old_glibc.cpp api/terminate.cpp)
  target_link_options(
    mmedge PRIVATE -static-libstdc++
    -Wl,--no-as-needed -l:libdl.so.2 -l:libpthread.so.0 -Wl,--as-needed)
endif()
target_compile_definitions(mmedge PRIVATE MMEDGE_BUILD)
# It hands on to the runtime, and the library's size counts.
target_compile_options(mmedge PRIVATE $<$<CONFIG:Release>:-Os>)
target_include_directories(
  mmedge
  PRIVATE api
  PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${sdk}include>)
target_link_libraries(mmedge PRIVATE mmedge_runtime)
# The version of the ABI is in the file's name, and there is no other name: a wheel holds no links.
set_target_properties(mmedge PROPERTIES SUFFIX .so.0)
if(NOT MMEDGE_SANITIZE)
  target_link_options(mmedge PRIVATE -Wl,--no-undefined -Wl,--gc-sections)
  target_link_options(
    mmedge PRIVATE -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/exports.map)
endif()

if(CMAKE_BUILD_TYPE STREQUAL "Release")
  target_link_options(mmedge PRIVATE -s)
endif()

install(TARGETS mmedge EXPORT mmedgeTargets LIBRARY DESTINATION ${libraries})

# Not in a wheel, which has `mmedge verify`: a program asks for the C library that it was built with.
if(NOT SKBUILD)
  # Readers of recordings, which are no part of libmmedge.
  file(GLOB recording CONFIGURE_DEPENDS tools/recording/*.cpp)
  add_library(mmedge_recording STATIC EXCLUDE_FROM_ALL ${recording})
  target_include_directories(mmedge_recording PUBLIC tools)
  target_link_libraries(mmedge_recording PUBLIC mmedge_runtime)
  if(TARGET recording_probe)
    target_link_libraries(recording_probe PRIVATE mmedge_recording)
  endif()

  add_executable(mmedge-verify tools/verify.cpp tools/trust.cpp)
  add_executable(mmedge-replay tools/replay.cpp tools/player.cpp tools/result_lines.cpp
                 tools/survey.cpp tools/trust.cpp)
  target_link_libraries(mmedge-replay PRIVATE mmedge_recording)
  file(RELATIVE_PATH up /p/${CMAKE_INSTALL_BINDIR} /p/${libraries})
  foreach(tool mmedge-verify mmedge-replay)
    target_link_libraries(${tool} PRIVATE mmedge)
    set_target_properties(${tool} PROPERTIES INSTALL_RPATH "$ORIGIN/${up}")
  endforeach()
  install(TARGETS mmedge-verify mmedge-replay RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

install(DIRECTORY include/mmedge DESTINATION ${sdk}include)
install(EXPORT mmedgeTargets NAMESPACE mmedge:: DESTINATION ${libraries}/cmake/mmedge)
configure_package_config_file(
  ${CMAKE_CURRENT_SOURCE_DIR}/cmake/mmedgeConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/mmedgeConfig.cmake
  INSTALL_DESTINATION ${libraries}/cmake/mmedge)
write_basic_package_version_file(
  ${CMAKE_CURRENT_BINARY_DIR}/mmedgeConfigVersion.cmake
  VERSION ${MMEDGE_VERSION}
  COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mmedgeConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/mmedgeConfigVersion.cmake
        DESTINATION ${libraries}/cmake/mmedge)
file(RELATIVE_PATH up /p/${libraries}/pkgconfig /p/${sdk}.)
configure_file(cmake/mmedge.pc.in ${CMAKE_CURRENT_BINARY_DIR}/mmedge.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mmedge.pc DESTINATION ${libraries}/pkgconfig)

if(MMEDGE_TESTS)
  # All of it in one program, where the tests tell its code from that of ONNX Runtime.
  foreach(name pipeline_allocations stream_allocations)
    add_executable(
      ${name} EXCLUDE_FROM_ALL ../tests/native/runtime/${name}.cpp api/bundle.cpp api/runtime.cpp
      api/stream.cpp api/stream_options.cpp api/backend.cpp $<TARGET_OBJECTS:mmedge_kernels_cpu>)
    target_include_directories(${name} PRIVATE api include)
    target_link_libraries(${name} PRIVATE mmedge_runtime)
    target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc)
  endforeach()
endif()
