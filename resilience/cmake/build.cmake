# What our own targets share; nothing of it reaches those who link resilience::resilience.

if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  set(CMAKE_VERIFY_INTERFACE_HEADER_SETS ON)
  set(CMAKE_CXX_EXTENSIONS OFF)
  find_program(RESILIENCE_CCACHE ccache)
  if(RESILIENCE_CCACHE)
    # Precompiled headers are cached too, when their time stamps are left out of the key.
    set(CMAKE_CXX_COMPILER_LAUNCHER
        ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
        ${RESILIENCE_CCACHE})
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    add_compile_options(-fpch-instantiate-templates)
    add_compile_options($<$<BOOL:${RESILIENCE_CCACHE}>:SHELL:-Xclang$<SEMICOLON>-fno-pch-timestamp>)
    add_link_options(-fuse-ld=lld)
  endif()
endif()

# Warnings are errors in our own targets.
add_library(resilience_build INTERFACE)
target_compile_features(resilience_build INTERFACE cxx_std_23)
target_compile_options(resilience_build INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Werror
  # g++ 12 finds dangling and uninitialised things in its own std::optional, std::variant and std::regex.
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow>)
