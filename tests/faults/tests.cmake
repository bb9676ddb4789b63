# I/O faults and SIGKILLs during saves. The shim is preloaded: see io_shim.h.
add_library(io_shim SHARED ${CMAKE_CURRENT_SOURCE_DIR}/faults/io_shim.c)
target_link_libraries(io_shim PRIVATE ${CMAKE_DL_LIBS})
target_compile_options(io_shim PRIVATE -fno-sanitize=all)
target_link_options(io_shim PRIVATE -fno-sanitize=all)
file(GLOB fault_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/faults/*.cpp)
add_executable(test_faults ${fault_tests})
target_link_libraries(test_faults PRIVATE llmtrain_checkpoint GTest::gtest ${CMAKE_DL_LIBS})
target_include_directories(test_faults PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(test_faults PRIVATE LLMTRAIN_IO_SHIM="$<TARGET_FILE:io_shim>")
add_dependencies(test_faults io_shim)
add_test(NAME faults-saves COMMAND test_faults --gtest_filter=SaveFaults.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME faults-kills COMMAND test_faults --gtest_filter=Kills.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(faults-saves faults-kills PROPERTIES LABELS unit TIMEOUT 600)

# The same through the program.
add_executable(runs_save_faults ${CMAKE_CURRENT_SOURCE_DIR}/faults/runs/program_faults_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/faults/runs/output_folder_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/faults/runs/foreign_checkpoint_test.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/support.cpp ${CMAKE_CURRENT_SOURCE_DIR}/train/runs/own_model.cpp
               ${CMAKE_CURRENT_SOURCE_DIR}/support/main.cpp)
target_link_libraries(runs_save_faults PRIVATE llmtrain_checkpoint GTest::gtest)
target_include_directories(runs_save_faults PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(runs_save_faults PRIVATE LLMTRAIN_IO_SHIM="$<TARGET_FILE:io_shim>" LLMTRAIN_TEST_BINARY="$<TARGET_FILE:llmtrain>"
                           LLMTRAIN_TEST_MPIEXEC="${MPIEXEC_EXECUTABLE}")
add_dependencies(runs_save_faults io_shim llmtrain)
add_test(NAME faults-program COMMAND runs_save_faults --gtest_filter=ProgramFaults.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME faults-output-folder COMMAND runs_save_faults --gtest_filter=OutputFolder.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME faults-foreign COMMAND runs_save_faults --gtest_filter=ForeignCheckpoint.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(faults-program faults-output-folder faults-foreign PROPERTIES LABELS runs TIMEOUT 600 PROCESSORS 2)

# The full numbers of docs/reliability.md.
add_test(NAME faults-saves-full COMMAND test_faults --gtest_filter=SaveFaults.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME faults-kills-full COMMAND test_faults --gtest_filter=Kills.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
add_test(NAME faults-program-full COMMAND runs_save_faults --gtest_filter=ProgramFaults.* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(faults-saves-full faults-kills-full faults-program-full PROPERTIES LABELS slow TIMEOUT 3600 PROCESSORS 2 ENVIRONMENT "LLMTRAIN_FAULTS_FULL=1")
