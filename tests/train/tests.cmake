# End-to-end runs of the program under mpirun.
add_executable(runs_train ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/support.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/own_model.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/golden_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/keys_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/own_runs_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/wrong_input_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/resume_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/same_run_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/operator_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/trace_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/gpu_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/nccl_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/device_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/support/main.cpp)
target_link_libraries(runs_train PRIVATE llmtrain_core GTest::gtest)
target_include_directories(runs_train PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(runs_train PRIVATE LLMTRAIN_TEST_BINARY="$<TARGET_FILE:llmtrain>" LLMTRAIN_TEST_MPIEXEC="${MPIEXEC_EXECUTABLE}")
add_dependencies(runs_train llmtrain)
foreach(suite OneRank TwoRanks ManyRanks Avx2)
  add_test(NAME train-golden-${suite} COMMAND runs_train --gtest_filter=${suite}/* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(train-golden-${suite} PROPERTIES LABELS runs TIMEOUT 900 PROCESSORS 2 SKIP_REGULAR_EXPRESSION "shared reference data absent")
endforeach()
add_test(NAME train-keys COMMAND runs_train --gtest_filter=Keys/*:KeyRunValues.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(train-keys PROPERTIES LABELS runs TIMEOUT 900 PROCESSORS 2 SKIP_REGULAR_EXPRESSION "shared reference data absent")
add_test(NAME train-own-runs COMMAND runs_train --gtest_filter=OwnRun.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME train-wrong-input COMMAND runs_train --gtest_filter=*Wrong*:BrokenModel.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME train-device COMMAND runs_train --gtest_filter=ChosenDevice.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME train-resume COMMAND runs_train --gtest_filter=Resume.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME train-operator COMMAND runs_train --gtest_filter=Operator.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(train-own-runs train-resume train-operator train-wrong-input train-device PROPERTIES LABELS runs TIMEOUT 900 PROCESSORS 2)
# More ranks than the usual four, and a test that restores at each count what all the others wrote.
if(TARGET mpitest_train)
  foreach(np 6 8)
    add_test(NAME train-mpi-${np} COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} ${np} ${MPIEXEC_PREFLAGS} $<TARGET_FILE:mpitest_train>
             --gtest_filter=Reshard.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(train-mpi-${np} PROPERTIES LABELS mpi TIMEOUT 300 PROCESSORS 2 ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMP_NUM_THREADS=1")
  endforeach()
endif()

# The program with faults built in (runs/faulty.cpp), and jobs that are disturbed from outside.
add_executable(llmtrain_faulty ${PROJECT_SOURCE_DIR}/src/main.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/faulty.cpp)
target_link_libraries(llmtrain_faulty PRIVATE llmtrain_app)
foreach(symbol
    _ZN8llmtrain9NodeBoard4postERKNS_21CollectiveDescriptionE
    _ZN8llmtrain11Transformer16forward_backwardERKNS_5BatchEf
    _ZN8llmtrain5AdamW4stepEdRNS_6StreamERNS_12CommunicatorE
    _ZNK8llmtrain6RowSet6appendERNS_5BatchESt4spanIKmLm18446744073709551615EE
    _ZN8llmtrain10ShardImage5writeERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE
    MPI_Finalize)
  target_link_options(llmtrain_faulty PRIVATE -Wl,--wrap=${symbol})
endforeach()
add_executable(runs_disturbed ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/support.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/own_model.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/job.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/disturbed_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/support/main.cpp)
target_link_libraries(runs_disturbed PRIVATE llmtrain_core GTest::gtest)
target_include_directories(runs_disturbed PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(runs_disturbed PRIVATE LLMTRAIN_TEST_BINARY="$<TARGET_FILE:llmtrain>" LLMTRAIN_TEST_FAULTY="$<TARGET_FILE:llmtrain_faulty>"
                           LLMTRAIN_TEST_MPIEXEC="${MPIEXEC_EXECUTABLE}")
add_dependencies(runs_disturbed llmtrain llmtrain_faulty)
# A few of each in `make test`, many in `make test-slow`; the counts are environment variables.
foreach(suite Injections Restarts)
  add_test(NAME train-disturbed-${suite} COMMAND runs_disturbed --gtest_filter=${suite}.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  add_test(NAME train-disturbed-${suite}-many COMMAND runs_disturbed --gtest_filter=${suite}.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(train-disturbed-${suite} PROPERTIES LABELS runs TIMEOUT 300 PROCESSORS 2)
  set_tests_properties(train-disturbed-${suite}-many PROPERTIES LABELS "runs;slow" TIMEOUT 3000 PROCESSORS 2
    ENVIRONMENT "LLMTRAIN_INJECTIONS=50;LLMTRAIN_KILLS=20;LLMTRAIN_STOPS=25")
endforeach()
add_test(NAME train-disturbed-exit COMMAND runs_disturbed --gtest_filter=Exits.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(train-disturbed-exit PROPERTIES LABELS "runs;slow" TIMEOUT 300 PROCESSORS 1)
add_test(NAME train-disturbed-Stragglers COMMAND runs_disturbed --gtest_filter=Stragglers.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(train-disturbed-Stragglers PROPERTIES LABELS runs TIMEOUT 300 PROCESSORS 2)
