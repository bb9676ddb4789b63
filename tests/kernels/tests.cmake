# The same tests on the vector code and the matrix products of processors without AVX-512, and on the baseline.
add_test(NAME kernels-avx2 COMMAND test_kernels WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(kernels-avx2 PROPERTIES LABELS unit TIMEOUT 300 ENVIRONMENT "LLMTRAIN_MAX_ISA=avx2;ONEDNN_MAX_CPU_ISA=AVX2")
add_test(NAME kernels-baseline COMMAND test_kernels WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(kernels-baseline PROPERTIES LABELS unit TIMEOUT 300 ENVIRONMENT "LLMTRAIN_MAX_ISA=baseline;ONEDNN_MAX_CPU_ISA=SSE41")
