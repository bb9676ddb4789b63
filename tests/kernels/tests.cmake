# The same tests on the vector code and the matrix products of processors without AVX-512, and on the baseline.
add_test(NAME kernels-avx2 COMMAND test_kernels WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(kernels-avx2 PROPERTIES LABELS unit TIMEOUT 300 ENVIRONMENT "LLMTRAIN_MAX_ISA=avx2;ONEDNN_MAX_CPU_ISA=AVX2")
add_test(NAME kernels-baseline COMMAND test_kernels WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(kernels-baseline PROPERTIES LABELS unit TIMEOUT 300 ENVIRONMENT "LLMTRAIN_MAX_ISA=baseline;ONEDNN_MAX_CPU_ISA=SSE41")
# The CUDA backend: on the emulator, and on a GPU where there is one (skipped elsewhere).
add_test(NAME kernels-cuda-emulated COMMAND test_kernels WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(kernels-cuda-emulated PROPERTIES LABELS unit TIMEOUT 600
  ENVIRONMENT "LLMTRAIN_TEST_BACKEND=cuda;CUDA_LAUNCH_BLOCKING=1;LLMTRAIN_CUDA_PLUGIN=${PROJECT_BINARY_DIR}/tests/libllmtrain-cuda-emulated.so")
if(LLMTRAIN_HAS_CUDA)
  foreach(attention flash cudnn)
    add_test(NAME kernels-cuda-${attention} COMMAND test_kernels WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(kernels-cuda-${attention} PROPERTIES LABELS gpu TIMEOUT 600 RESOURCE_LOCK gpu SKIP_RETURN_CODE 77 ENVIRONMENT
      "LLMTRAIN_TEST_BACKEND=cuda;CUDA_LAUNCH_BLOCKING=1;LLMTRAIN_TEST_ATTENTION=${attention};LLMTRAIN_CUDA_PLUGIN=${PROJECT_BINARY_DIR}/libllmtrain-cuda.so")
  endforeach()
endif()
