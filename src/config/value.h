// Value: what a key of the configuration holds, independent of the file it came from. TextMap: a small map of scalars
// (lr_scheduler_kwargs). Thread rules: plain values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace llmtrain {

// Scalars by name, each as its canonical text ("0.1", "cosine", "true").
using TextMap = std::map<std::string, std::string>;

// std::monostate is null. A list is a comma list or a YAML list of texts.
using Value = std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<std::string>, std::vector<double>, TextMap>;

// The fewest digits that read back exactly, always with a point or an exponent ("1.0", "1e-05").
std::string format_number(double value);

// The value as YAML on one line, such that reading it for the same key gives the same value.
std::string to_yaml(const Value& value);

// A text as a YAML scalar: plain where nothing could take it for something else, else in double quotes.
std::string quote_yaml(std::string_view text);

// Whole text as a number; nullopt if it is none. Accepts what YAML 1.1, JSON and Python write: 1e-5, 1.0e-5, 5., .5, 1_000.
std::optional<double> parse_number(std::string_view text);
// Whole text as an integer, also when written 1e3 or 8.0; nullopt if it is none or does not fit.
std::optional<int64_t> parse_integer(std::string_view text);
// true, yes, on / false, no, off in the spellings of YAML 1.1.
std::optional<bool> parse_boolean(std::string_view text);
// null, Null, NULL, ~ and nothing at all.
bool is_null_word(std::string_view text);

// Splits at commas and trims blanks.
std::vector<std::string> split_commas(std::string_view text);

// The candidate with the smallest edit distance (insertions, deletions, replacements, swaps of neighbours); "" if there is none.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);
// "a, b or c".
std::string list_words(const std::vector<std::string>& words);

}  // namespace llmtrain
