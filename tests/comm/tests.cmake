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
