# Tool of scripts/compare-tokenizers.py: text to ids and back, line by line.
add_executable(encode_lines ${CMAKE_CURRENT_SOURCE_DIR}/tools/encode_lines.cpp)
target_link_libraries(encode_lines PRIVATE llmtrain_data)
