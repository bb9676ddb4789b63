# The engine against transformers: the project's own small models, and the shared ones where they are.
set(reference_mpirun ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG})
add_test(NAME reference-own COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh own $<TARGET_FILE:check_reference>)
add_test(NAME reference-own-3ranks COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh own $<TARGET_FILE:check_reference> ${reference_mpirun} 3)
add_test(NAME reference-shared COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh shared $<TARGET_FILE:check_reference>)
set_tests_properties(reference-own reference-own-3ranks reference-shared PROPERTIES LABELS e2e TIMEOUT 600 PROCESSORS 2 SKIP_RETURN_CODE 77
  WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
