# make install: the programs, the example configurations with the data of the quick start, the batch scripts of Slurm, the documents.
install(TARGETS llmtrain check_reference RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY configs data slurm DESTINATION ${CMAKE_INSTALL_DATADIR}/llmtrain)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES README.md CHANGELOG.md CITATION.cff LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
