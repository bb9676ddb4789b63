# The CUDA plugin: libllmtrain-cuda.so, all code that needs a GPU. It is opened by the program when a GPU is used (src/device/cuda_backend.h), so the
# program itself links nothing of CUDA. Kernels are compiled for sm_80 and sm_90, with PTX of compute_90 for what comes later.
file(GLOB cuda_kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu)
file(GLOB cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cpp ${PROJECT_SOURCE_DIR}/src/device/cuda/*.cpp
     ${PROJECT_SOURCE_DIR}/src/comm/nccl/*.cpp)
# Files that call a vendor's library beyond the runtime, and what stands in for them where that library is absent.
set(cublaslt_sources ${PROJECT_SOURCE_DIR}/kernels/cuda/gemm_cublaslt.cpp ${PROJECT_SOURCE_DIR}/kernels/cuda/versions.cpp)
set(cudnn_sources ${PROJECT_SOURCE_DIR}/kernels/cuda/attention_cudnn.cpp)
set(cudnn_plan_source ${PROJECT_SOURCE_DIR}/kernels/cuda/attention_cudnn_plan.cpp)
set(cudnn_absent ${PROJECT_SOURCE_DIR}/kernels/cuda/attention_cudnn_absent.cpp)
file(GLOB nccl_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/comm/nccl/nccl_*.cpp)
set(nccl_absent ${PROJECT_SOURCE_DIR}/src/comm/nccl/nccl_absent.cpp)
list(REMOVE_ITEM nccl_sources ${nccl_absent})
# What needs the CUDA runtime only: the emulated plugin of the tests is made of these too.
set(LLMTRAIN_CUDA_RUNTIME_SOURCES ${cuda_sources})
list(REMOVE_ITEM LLMTRAIN_CUDA_RUNTIME_SOURCES ${cublaslt_sources} ${cudnn_sources} ${cudnn_plan_source} ${cudnn_absent} ${nccl_sources} ${nccl_absent})
set(LLMTRAIN_CUDA_KERNEL_SOURCES ${cuda_kernels})
set(LLMTRAIN_CUDNN_ABSENT_SOURCES ${cudnn_absent})
set(LLMTRAIN_NCCL_ABSENT_SOURCES ${nccl_absent})
set(LLMTRAIN_NCCL_SOURCES ${nccl_sources})

if(LLMTRAIN_HAS_CUDA)
  set(sources ${LLMTRAIN_CUDA_RUNTIME_SOURCES} ${LLMTRAIN_CUDA_KERNEL_SOURCES} ${cublaslt_sources})
  if(CUDNN_FOUND AND CUDNN_FRONTEND_INCLUDE_DIR)
    # cuDNN's front end takes half a minute to compile: once, for the plugin and for the test that compiles plans without a GPU. cuDNN itself is opened
    # at run time.
    add_library(llmtrain_cudnn_plans OBJECT ${cudnn_plan_source})
    target_compile_options(llmtrain_cudnn_plans PRIVATE -O1 -g0 -fvisibility=hidden)
    target_include_directories(llmtrain_cudnn_plans SYSTEM PRIVATE ${CUDNN_FRONTEND_INCLUDE_DIR} ${CUDNN_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
    list(APPEND sources ${cudnn_sources} $<TARGET_OBJECTS:llmtrain_cudnn_plans>)
  else()
    list(APPEND sources ${cudnn_absent})
  endif()
  if(NCCL_FOUND AND nccl_sources)
    list(APPEND sources ${nccl_sources})
  else()
    list(APPEND sources ${nccl_absent})
  endif()
  add_library(llmtrain-cuda MODULE ${sources})
  set_target_properties(llmtrain-cuda PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR} CUDA_RUNTIME_LIBRARY Static
    CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
    INSTALL_RPATH "$ORIGIN;$ORIGIN/../lib" LINK_FLAGS "-Wl,--no-undefined -Wl,--exclude-libs,ALL")
  target_compile_options(llmtrain-cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo --expt-relaxed-constexpr --compress-mode=size -diag-suppress=20012,20013,20014,20015>)
  target_include_directories(llmtrain-cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(llmtrain-cuda PRIVATE llmtrain_comm llmtrain_device llmtrain_core CUDA::cublasLt)
  if(NCCL_FOUND)
    target_link_libraries(llmtrain-cuda PRIVATE NCCL::NCCL)
  endif()
endif()
