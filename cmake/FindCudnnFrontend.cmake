# cudnn-frontend's headers: CUDNN_FRONTEND_INCLUDE_DIR. Header-only; from a system package, from the wheel nvidia-cudnn-frontend (its include/ folder), or
# from the folder that scripts/install-deps unpacks it into. CUDNN_FRONTEND_ROOT names a folder that holds include/cudnn_frontend.h.
file(GLOB cudnn_frontend_wheels LIST_DIRECTORIES true
  $ENV{VIRTUAL_ENV}/lib/python3*/site-packages/include /usr/lib/python3/dist-packages/include /usr/local/lib/python3*/dist-packages/include
  /usr/local/lib/python3*/site-packages/include)
find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
  HINTS ${CUDNN_FRONTEND_ROOT} ENV CUDNN_FRONTEND_ROOT /opt/llmtrain-deps/cudnn-frontend ${cudnn_frontend_wheels}
  PATHS /usr/local /usr/local/cuda PATH_SUFFIXES include)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CudnnFrontend REQUIRED_VARS CUDNN_FRONTEND_INCLUDE_DIR)
