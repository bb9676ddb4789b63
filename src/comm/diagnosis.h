// Who held the others up: read from the dumps that watchdogs wrote. A rank without a dump was stopped or dead; else the one that has come least far
// in the collectives that the others wait in. A rank that the others saw stopped, or that failed by itself, is named before all that.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"

namespace llmtrain {

struct Diagnosis {
  std::string job;                    // what the ranks of one start have in common; "" where the dumps do not say
  double time = 0;                    // of the last dump, seconds since 1970
  int size = 0;                       // ranks of the job
  std::vector<int> stopped;           // seen to be stopped by a rank of the same node
  std::vector<int> failed;            // ended with an error of their own
  std::string error;                  // of the first of these
  std::vector<int> without_dump;      // stopped, dead, or on a node that could not write
  std::vector<int> laggards;          // ranks that have not joined what the others wait in
  std::string collective;             // "all_gather 'layer 3' (number 57 of 'gather')"
  std::vector<std::string> hosts;     // by rank; "" where unknown
  std::string differing;              // ranks that wait for each other in different collectives of one number: "rank 0 is in …, rank 1 is in …"
  std::vector<int> guilty() const;    // the ranks to look at: the first of the lists above that is not empty
  std::string text() const;           // a few lines for a person
};

// `dumps`: the JSON of rank-*.json files; where they are of several starts of a job, those of the last one count. InputError when there is none, or they
// are of different jobs and do not say of which.
Diagnosis diagnose(const std::vector<Json>& dumps);
// The same for each start of each job that the dumps are of, the newest first.
std::vector<Diagnosis> diagnose_all(const std::vector<Json>& dumps);
// All rank-*.json of a folder, or the files named.
std::vector<Json> read_dumps(const std::vector<std::string>& paths);

}  // namespace llmtrain
