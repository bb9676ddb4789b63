// How a folder that was written under a temporary name gets its own, so that a crash leaves the old one or the new one, whole.
//
// Errors: OperationError with path and errno. Thread rules: used by one rank.
#pragma once

#include <string>

namespace llmtrain {

// The names in the folder `path` are on the disk.
void sync_folder(const std::string& path);

// With all that is in it; what cannot be removed stays.
void remove_folder(const std::string& path);

// `from` gets the name `to`. Returns where the folder is now that had this name, "" where there was none; the caller removes it.
// There is no moment without either where the file system can exchange two names; elsewhere (NFS) the old one is under another name for a moment
// (kReplacedSuffix), where find_checkpoint looks for it.
std::string put_folder_in_place(const std::string& from, const std::string& to);

// Removes what a save or a start that was killed left in output_dir. Only where nothing is being written there.
void remove_leftovers(const std::string& output_dir);

}  // namespace llmtrain
