// Reads all rows of a dataset file in order and again from the middle, converting each in every way.
#pragma once

#include <string>
#include <string_view>

#include "core/error.h"
#include "data/convert.h"
#include "data/row_source.h"
#include "data/tools.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {

inline void convert_every_way(const Row& row) {
  Example example;
  for (const Formatting formatting : {Formatting::alpaca, Formatting::sharegpt, Formatting::openai}) {
    for (const bool ranking : {false, true}) {
      DatasetEntry entry;
      entry.name = "fuzz";
      entry.formatting = formatting;
      entry.ranking = ranking;
      entry.history = "history";
      entry.system = "system";
      entry.tools = "tools";
      entry.chosen = "chosen";
      entry.rejected = "rejected";
      entry.images = "images";
      entry.kto_tag = "kto_tag";
      if (formatting == Formatting::openai) {
        entry.messages = "messages";
        entry.role_tag = "role";
        entry.content_tag = "content";
        entry.user_tag = "user";
        entry.assistant_tag = "assistant";
        entry.observation_tag = "tool";
        entry.function_tag = "function";
      }
      for (const Stage stage : {Stage::pt, Stage::sft, Stage::dpo}) {
        if ((stage == Stage::dpo) != ranking) continue;
        try {
          convert_row(entry, stage, row, example);
        } catch (const RowError&) {
        }
      }
    }
  }
  row.names();
}

inline void read_rows(const std::string& name, std::string_view content) {
  SourceFile file;
  file.path = put(name, content);
  file.stride = 3;  // several noted offsets even in a small file
  scan_file(file, 1 << 20);
  RowReader forward(file), middle(file);
  for (uint64_t i = 0; i < file.rows; ++i) convert_every_way(forward.read(i));
  if (file.rows == 0) return;
  middle.read(file.rows - 1);
  middle.read(file.rows / 2);
  middle.read(0);
}

}  // namespace llmtrain::fuzz
