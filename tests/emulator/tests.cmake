# The sources of the CUDA backend, compiled by the host compiler against an emulator of the CUDA runtime (cuda_runtime.h here): a plugin that runs the same
# kernels on the processor, for the tests of their logic where there is no GPU.
set(here ${CMAKE_CURRENT_SOURCE_DIR}/emulator)
add_library(llmtrain-cuda-emulated MODULE ${LLMTRAIN_CUDA_KERNEL_SOURCES} ${LLMTRAIN_CUDA_RUNTIME_SOURCES} ${LLMTRAIN_CUDA_ABSENT_SOURCES}
            ${here}/threads.cpp ${here}/runtime.cpp ${here}/emulated_libraries.cpp)
set_source_files_properties(${LLMTRAIN_CUDA_KERNEL_SOURCES} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
target_include_directories(llmtrain-cuda-emulated BEFORE PRIVATE ${here})
target_compile_options(llmtrain-cuda-emulated PRIVATE -Wno-unknown-pragmas -Wno-pedantic)
set_target_properties(llmtrain-cuda-emulated PROPERTIES CXX_VISIBILITY_PRESET hidden LINK_FLAGS "-Wl,--exclude-libs,ALL -Wl,--no-undefined")
target_link_libraries(llmtrain-cuda-emulated PRIVATE llmtrain_comm llmtrain_device llmtrain_core ${BOOST_CONTEXT_LIBRARY})
