# Builds the fuzz targets (a project of its own, with clang) and runs each for five seconds, two at a time. Skipped where there is no clang with libFuzzer.
add_test(NAME fuzz COMMAND ${PROJECT_SOURCE_DIR}/scripts/fuzz --seconds 5 --build-dir ${PROJECT_BINARY_DIR}/fuzz)
set_tests_properties(fuzz PROPERTIES LABELS fuzz PROCESSORS 2 TIMEOUT 900 SKIP_RETURN_CODE 77)
