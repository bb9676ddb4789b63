# A job with a killed rank.
add_executable(comm_kill_probe ${CMAKE_CURRENT_SOURCE_DIR}/comm/probe/kill_probe.cpp)
target_link_libraries(comm_kill_probe PRIVATE llmtrain_comm)
add_test(NAME comm-killed-rank COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/comm/kill_test.sh ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:comm_kill_probe>)
set_tests_properties(comm-killed-rank PROPERTIES LABELS mpi TIMEOUT 120 PROCESSORS 2)
# More ranks than cores: flags must sleep, not spin.
if(TARGET mpitest_comm)
  add_test(NAME comm-mpi-8 COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} 8 ${MPIEXEC_PREFLAGS} $<TARGET_FILE:mpitest_comm>
           --gtest_filter=*ReduceScatter*/0:*Fence*/0:*Gathers*/0:*TwoComm*/3 WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  add_test(NAME comm-mpi-8-all COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} 8 ${MPIEXEC_PREFLAGS} $<TARGET_FILE:mpitest_comm>
           WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(comm-mpi-8-all PROPERTIES LABELS "mpi;slow" TIMEOUT 600 PROCESSORS 2 ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMP_NUM_THREADS=1")
  set_tests_properties(comm-mpi-8 PROPERTIES LABELS mpi TIMEOUT 120 PROCESSORS 2 ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMP_NUM_THREADS=1")
endif()
# The staged communicator also on the emulated GPU.
foreach(np 1 2 3 4)
  if(TEST comm-mpi-${np})
    set_property(TEST comm-mpi-${np} APPEND PROPERTY ENVIRONMENT "LLMTRAIN_CUDA_PLUGIN=${PROJECT_BINARY_DIR}/tests/libllmtrain-cuda-emulated.so")
  endif()
endforeach()
# NCCL: what can be tried without a GPU, and the plugin's communicator on one GPU.
if(LLMTRAIN_HAS_CUDA AND NCCL_FOUND)
  add_executable(test_nccl_connect ${CMAKE_CURRENT_SOURCE_DIR}/comm/gpu/nccl_connect_test.cpp ${PROJECT_SOURCE_DIR}/src/comm/nccl/nccl_connect.cpp
                 ${PROJECT_SOURCE_DIR}/src/device/cuda/cuda_stream.cpp ${CMAKE_CURRENT_SOURCE_DIR}/support/main.cpp)
  target_include_directories(test_nccl_connect PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_include_directories(test_nccl_connect SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(test_nccl_connect PRIVATE llmtrain_device llmtrain_core NCCL::NCCL CUDA::cudart_static GTest::gtest)
  add_test(NAME nccl-connect COMMAND test_nccl_connect WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(nccl-connect PROPERTIES LABELS unit TIMEOUT 60)
  add_executable(gputest_nccl ${CMAKE_CURRENT_SOURCE_DIR}/comm/gpu/nccl_test.cpp)
  target_link_libraries(gputest_nccl PRIVATE llmtrain_comm GTest::gtest)
  add_test(NAME nccl-gpu COMMAND gputest_nccl WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(nccl-gpu PROPERTIES LABELS gpu TIMEOUT 300 RESOURCE_LOCK gpu SKIP_RETURN_CODE 77
    ENVIRONMENT "LLMTRAIN_CUDA_PLUGIN=${PROJECT_BINARY_DIR}/libllmtrain-cuda.so")
endif()
