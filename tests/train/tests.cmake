# End-to-end runs of the program under mpirun.
add_executable(runs_train ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/support.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/own_model.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/golden_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/own_runs_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/wrong_input_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/resume_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/support/main.cpp)
target_link_libraries(runs_train PRIVATE llmtrain_core GTest::gtest)
target_include_directories(runs_train PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(runs_train PRIVATE LLMTRAIN_TEST_BINARY="$<TARGET_FILE:llmtrain>" LLMTRAIN_TEST_MPIEXEC="${MPIEXEC_EXECUTABLE}")
add_dependencies(runs_train llmtrain)
foreach(suite OneRank TwoRanks ManyRanks Avx2)
  add_test(NAME train-golden-${suite} COMMAND runs_train --gtest_filter=${suite}/* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(train-golden-${suite} PROPERTIES LABELS runs TIMEOUT 900 PROCESSORS 2 SKIP_REGULAR_EXPRESSION "shared reference data absent")
endforeach()
add_test(NAME train-own-runs COMMAND runs_train --gtest_filter=OwnRun.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME train-wrong-input COMMAND runs_train --gtest_filter=*Wrong*:BrokenModel.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME train-resume COMMAND runs_train --gtest_filter=Resume.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(train-own-runs train-resume train-wrong-input PROPERTIES LABELS runs TIMEOUT 900 PROCESSORS 2)
