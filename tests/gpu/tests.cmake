# Tests that need a GPU, for `ctest -L gpu` and scripts/gpu-check: skipped with the reason where there is none. One at a time, as they share it.
# The kernels' own tests are in tests/kernels/tests.cmake.
add_executable(gpu_probe ${CMAKE_CURRENT_SOURCE_DIR}/gpu/gpu_probe.cpp)
target_link_libraries(gpu_probe PRIVATE llmtrain_device)

function(llmtrain_gpu_test name timeout)
  add_test(NAME gpu-${name} COMMAND gpu_probe --run ${ARGN} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(gpu-${name} PROPERTIES LABELS gpu RESOURCE_LOCK gpu TIMEOUT ${timeout} SKIP_RETURN_CODE 77
    ENVIRONMENT "LLMTRAIN_TEST_DEVICE=cuda;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
endfunction()
set(reference ${CMAKE_CURRENT_SOURCE_DIR}/reference/run.sh)
llmtrain_gpu_test(reference-own 120 ${reference} own --device cuda -- $<TARGET_FILE:check_reference>)
llmtrain_gpu_test(reference-shared 180 ${reference} shared --device cuda -- $<TARGET_FILE:check_reference>)
foreach(ranks 2 4)
  llmtrain_gpu_test(reference-own-${ranks}ranks 180 ${reference} own --device cuda --communicator staged --
    $<TARGET_FILE:check_reference> ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} ${ranks})
endforeach()
llmtrain_gpu_test(losses 180 $<TARGET_FILE:runs_train> --gtest_filter=GpuRun.GivesTheLosses*:GpuRun.Nccl*)
llmtrain_gpu_test(staged 180 $<TARGET_FILE:runs_train> --gtest_filter=GpuRun.TwoAndFourRanks*)
llmtrain_gpu_test(golden 300 $<TARGET_FILE:runs_train> --gtest_filter=OneRank/*)
llmtrain_gpu_test(golden-2ranks 300 $<TARGET_FILE:runs_train> --gtest_filter=TwoRanks/*)
llmtrain_gpu_test(golden-4ranks 240 $<TARGET_FILE:runs_train> --gtest_filter=ManyRanks/*)
llmtrain_gpu_test(bits 180 $<TARGET_FILE:runs_train> --gtest_filter=GpuRun.Deterministic*)
llmtrain_gpu_test(trace 120 $<TARGET_FILE:runs_train> --gtest_filter=OwnRun.TraceHolds*)
llmtrain_gpu_test(generate-bench 180 $<TARGET_FILE:runs_train> --gtest_filter=GpuRun.Generates*:GpuRun.Bench*)
llmtrain_gpu_test(resume 180 $<TARGET_FILE:runs_train> --gtest_filter=GpuRun.Resumes*)
llmtrain_gpu_test(leaks 180 $<TARGET_FILE:runs_train> --gtest_filter=GpuRun.NothingLeaks*)
llmtrain_gpu_test(nccl-duplicate 120 $<TARGET_FILE:runs_train> --gtest_filter=GpuRun.TwoRanksBound*)

# What the program and the plugin may need of other libraries: no GPU needed.
set(plugin_file "")
if(TARGET llmtrain-cuda)
  set(plugin_file $<TARGET_FILE:llmtrain-cuda>)
endif()
add_test(NAME cuda-wall COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/wall_test.sh $<TARGET_FILE:llmtrain> ${plugin_file})
set_tests_properties(cuda-wall PROPERTIES LABELS e2e TIMEOUT 60)
