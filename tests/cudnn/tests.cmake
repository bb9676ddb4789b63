# What stands around cuDNN and cuBLASLt. The host part runs the small kernels on the emulator; the plans are compiled by the real cuDNN, without a GPU.
set(here ${CMAKE_CURRENT_SOURCE_DIR}/cudnn)
set(cuda ${PROJECT_SOURCE_DIR}/kernels/cuda)
set(emulator ${CMAKE_CURRENT_SOURCE_DIR}/emulator)
add_executable(test_cuda_host ${here}/host_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/support/main.cpp ${cuda}/attention_cudnn_shapes.cpp ${cuda}/gemm_choices.cpp
               ${cuda}/attention_cudnn_layout.cu ${cuda}/gemm_fallback.cu ${LLMTRAIN_EMULATOR_SOURCES}
               ${PROJECT_SOURCE_DIR}/src/device/cuda/cuda_device.cpp ${PROJECT_SOURCE_DIR}/src/device/cuda/cuda_stream.cpp)
target_include_directories(test_cuda_host BEFORE PRIVATE ${emulator})
target_include_directories(test_cuda_host PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_options(test_cuda_host PRIVATE -Wno-unknown-pragmas -Wno-pedantic)
target_link_libraries(test_cuda_host PRIVATE llmtrain_device llmtrain_core ${BOOST_CONTEXT_LIBRARY} GTest::gtest)
add_test(NAME cuda-host COMMAND test_cuda_host WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(cuda-host PROPERTIES LABELS unit TIMEOUT 120 ENVIRONMENT CUDA_LAUNCH_BLOCKING=1)

if(TARGET llmtrain_cudnn_plans)
  add_executable(test_cudnn_plans ${here}/plan_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/support/main.cpp ${cuda}/attention_cudnn_shapes.cpp
                 $<TARGET_OBJECTS:llmtrain_cudnn_plans>)
  target_include_directories(test_cudnn_plans PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_include_directories(test_cudnn_plans SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(test_cudnn_plans PRIVATE llmtrain_device llmtrain_core GTest::gtest ${CMAKE_DL_LIBS})
  set(run ${here}/plans_without_a_gpu.sh ${CMAKE_CURRENT_BINARY_DIR} $<TARGET_FILE:test_cudnn_plans>)
  add_test(NAME cudnn-plans COMMAND ${run} --gtest_filter=-WholeProduct/* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(cudnn-plans PROPERTIES LABELS unit TIMEOUT 300 SKIP_RETURN_CODE 77)
  add_test(NAME cudnn-plans-all COMMAND ${run} --gtest_filter=WholeProduct/* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(cudnn-plans-all PROPERTIES LABELS slow TIMEOUT 1800 SKIP_RETURN_CODE 77)
endif()
