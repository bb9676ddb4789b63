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

# The program itself on the emulated GPU: the scenarios of the tests labelled gpu, cut to what the emulator does in seconds.
function(llmtrain_emulated_test name labels timeout)
  add_test(NAME emulated-${name} COMMAND ${ARGN} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(emulated-${name} PROPERTIES LABELS "${labels}" TIMEOUT ${timeout} PROCESSORS 2 SKIP_RETURN_CODE 77 ENVIRONMENT
    "LLMTRAIN_TEST_DEVICE=cuda;LLMTRAIN_CUDA_PLUGIN=$<TARGET_FILE:llmtrain-cuda-emulated>;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
endfunction()
set(reference ${CMAKE_CURRENT_SOURCE_DIR}/reference/run.sh)
set(staged_ranks ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG})
llmtrain_emulated_test(reference-own runs 300 ${reference} own --device cuda -- $<TARGET_FILE:check_reference>)
llmtrain_emulated_test(reference-own-2ranks "runs;slow" 600 ${reference} own --device cuda --communicator staged -- $<TARGET_FILE:check_reference> ${staged_ranks} 2)
llmtrain_emulated_test(reference-shared "runs;slow" 1800 ${reference} shared --device cuda -- $<TARGET_FILE:check_reference>)
llmtrain_emulated_test(losses runs 300 runs_train --gtest_filter=GpuRun.GivesTheLosses*:GpuRun.TwoAndFour*)
llmtrain_emulated_test(bits runs 300 runs_train --gtest_filter=GpuRun.Deterministic*:OwnRun.TraceHolds*)
llmtrain_emulated_test(commands runs 300 runs_train --gtest_filter=GpuRun.Generates*:GpuRun.Bench*)
llmtrain_emulated_test(resume runs 300 runs_train --gtest_filter=GpuRun.Resumes*)
llmtrain_emulated_test(leaks runs 300 runs_train --gtest_filter=GpuRun.NothingLeaks*)
llmtrain_emulated_test(faults runs 300 runs_train --gtest_filter=EmulatedGpu.*)
llmtrain_emulated_test(golden "runs;slow" 1800 runs_train --gtest_filter=OneRank/*full_bf16)
