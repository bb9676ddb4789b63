# cudnn-frontend's headers: CUDNN_FRONTEND_INCLUDE_DIR. Header-only; from a system package, from the wheel nvidia-cudnn-frontend (its include/ folder), or
# from the folder that scripts/install-deps unpacks it into. CUDNN_FRONTEND_ROOT names a folder that holds include/cudnn_frontend.h.
# An installation that is too old counts as absent.
file(GLOB cudnn_frontend_wheels LIST_DIRECTORIES true
  $ENV{VIRTUAL_ENV}/lib/python3*/site-packages/include /usr/lib/python3/dist-packages/include /usr/local/lib/python3*/dist-packages/include
  /usr/local/lib/python3*/site-packages/include)
find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
  HINTS ${CUDNN_FRONTEND_ROOT} ENV CUDNN_FRONTEND_ROOT /opt/llmtrain-deps/cudnn-frontend $ENV{HOME}/.local/share/llmtrain/cudnn-frontend
        ${cudnn_frontend_wheels}
  PATHS /usr/local /usr/local/cuda PATH_SUFFIXES include)
set(CudnnFrontend_VERSION "")
if(CUDNN_FRONTEND_INCLUDE_DIR AND EXISTS ${CUDNN_FRONTEND_INCLUDE_DIR}/cudnn_frontend_version.h)
  file(STRINGS ${CUDNN_FRONTEND_INCLUDE_DIR}/cudnn_frontend_version.h cudnn_frontend_lines REGEX "#define CUDNN_FRONTEND_(MAJOR|MINOR|PATCH)_VERSION ")
  string(REGEX REPLACE ".*MAJOR_VERSION ([0-9]+).*MINOR_VERSION ([0-9]+).*PATCH_VERSION ([0-9]+).*" "\\1.\\2.\\3" CudnnFrontend_VERSION
         "${cudnn_frontend_lines}")
endif()
if(CUDNN_FRONTEND_INCLUDE_DIR AND CudnnFrontend_VERSION VERSION_LESS 1.32)
  message(STATUS "cudnn-frontend ${CudnnFrontend_VERSION} in ${CUDNN_FRONTEND_INCLUDE_DIR} is older than 1.32: not used")
  set(CUDNN_FRONTEND_INCLUDE_DIR CUDNN_FRONTEND_INCLUDE_DIR-NOTFOUND CACHE PATH "cudnn-frontend's headers" FORCE)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CudnnFrontend REQUIRED_VARS CUDNN_FRONTEND_INCLUDE_DIR VERSION_VAR CudnnFrontend_VERSION)
