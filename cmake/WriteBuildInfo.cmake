# Run by the build (LLMTrainVersion.cmake).
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty=+dirty --abbrev=12 OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit AND EXISTS ${SOURCE}/COMMIT)
  file(READ ${SOURCE}/COMMIT commit)
  string(STRIP "${commit}" commit)
endif()
if(NOT commit)
  set(commit "unknown")
endif()
foreach(v CUDA NCCL CUDNN ARCHITECTURES)
  if(NOT ${v})
    set(${v} "none")
  endif()
endforeach()
set(text "#pragma once
#define LLMTRAIN_VERSION \"${VERSION}\"
#define LLMTRAIN_COMMIT \"${commit}\"
#define LLMTRAIN_COMPILER \"${COMPILER}\"
#define LLMTRAIN_FLAGS \"${FLAGS}\"
#define LLMTRAIN_CUDA_VERSION \"${CUDA}\"
#define LLMTRAIN_NCCL_VERSION \"${NCCL}\"
#define LLMTRAIN_CUDNN_VERSION \"${CUDNN}\"
#define LLMTRAIN_CUDA_ARCHITECTURES \"${ARCHITECTURES}\"
")
file(CONFIGURE OUTPUT ${OUT} CONTENT "${text}" @ONLY)
