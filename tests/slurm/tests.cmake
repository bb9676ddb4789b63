# A real Slurm on this machine (cluster.sh): the scripts of slurm/ as people use them. Skipped, with the reason, where Slurm is missing or does not start.
foreach(name two_nodes time_limit array killed_rank)
  add_test(NAME slurm-${name} COMMAND ${CMAKE_CURRENT_LIST_DIR}/${name}_test.sh ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR} ${PROJECT_BINARY_DIR}/slurm-scratch/${name})
  set_tests_properties(slurm-${name} PROPERTIES LABELS slurm PROCESSORS 2 TIMEOUT 300 SKIP_RETURN_CODE 77)
endforeach()
