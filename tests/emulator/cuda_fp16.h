// Stands where <nccl.h> looks for the toolkit's header; nothing of it is used.
#pragma once
