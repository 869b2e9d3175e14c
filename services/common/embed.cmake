# embed_text(TARGET NAME FILE): `#include "NAME.hpp"` gives the target the text of FILE as the std::string_view NAME.
function(embed_text target name file)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  file(READ ${file} EMBEDDED_TEXT)
  set(EMBEDDED_NAME ${name})
  configure_file(${PROJECT_SOURCE_DIR}/services/common/embedded.hpp.in ${CMAKE_CURRENT_BINARY_DIR}/embedded/${name}.hpp @ONLY)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/embedded)
endfunction()
