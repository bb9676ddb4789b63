# make install: the programs, the CUDA plugin where it was built, the example configurations with the data of the quick start, the batch scripts of Slurm, the documents.
install(TARGETS llmtrain check_reference RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET llmtrain-cuda)  # where the program looks for it: lib/llmtrain beside its bin, whatever the system calls its folder of libraries
  install(TARGETS llmtrain-cuda LIBRARY DESTINATION lib/llmtrain OPTIONAL)
endif()
install(DIRECTORY configs data slurm DESTINATION ${CMAKE_INSTALL_DATADIR}/llmtrain)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES README.md CHANGELOG.md CITATION.cff LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
