// The Communicator of a process by itself: every collective is a copy or an addition.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace llmtrain {

std::unique_ptr<Communicator> make_solo_communicator(const std::string& name);

}  // namespace llmtrain
