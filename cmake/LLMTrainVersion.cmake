# Build information for --version: commit, compiler and flags, versions compiled against. Written anew at each build, but only touched when changed.
set(LLMTRAIN_BUILD_INFO ${PROJECT_BINARY_DIR}/generated/build_info.h)
if(LLMTRAIN_HAS_CUDA)
  list(JOIN CMAKE_CUDA_ARCHITECTURES ", " cuda_architectures)  # a list would be cut at its first semicolon on the way
  set(cuda_versions "-DCUDA=${CUDAToolkit_VERSION}" "-DNCCL=${NCCL_VERSION}" "-DCUDNN=${CUDNN_VERSION}" "-DARCHITECTURES=${cuda_architectures}")
endif()
string(TOUPPER "${CMAKE_BUILD_TYPE}" build_type)
add_custom_target(llmtrain_build_info
  COMMAND ${CMAKE_COMMAND} -DOUT=${LLMTRAIN_BUILD_INFO} -DSOURCE=${PROJECT_SOURCE_DIR} -DVERSION=${PROJECT_VERSION}
          "-DCOMPILER=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
          "-DFLAGS=${CMAKE_BUILD_TYPE} ${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${build_type}}"
          ${cuda_versions} -P ${PROJECT_SOURCE_DIR}/cmake/WriteBuildInfo.cmake
  BYPRODUCTS ${LLMTRAIN_BUILD_INFO} VERBATIM)
foreach(room app device)
  add_dependencies(llmtrain_${room} llmtrain_build_info)
  target_include_directories(llmtrain_${room} PRIVATE ${PROJECT_BINARY_DIR}/generated)
endforeach()
