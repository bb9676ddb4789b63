// llmtrain inspect: what a checkpoint holds, and whether every byte of it is as it was written.
#include <boost/program_options/value_semantic.hpp>

#include "app/commands.h"
#include "app/help.h"
#include "core/printable.h"
#include "checkpoint/reader.h"
#include "checkpoint/resume.h"
#include "core/error.h"
#include "core/file.h"

namespace po = boost::program_options;

namespace llmtrain {
namespace {

Json tensors_json(const Manifest& m) {
  Json tensors = Json::array();
  for (const StoredUnit& u : m.content.units) {
    for (const StoredTensor& t : u.tensors) {
      Json shape = Json::array(), arrays = Json::array();
      for (int i = 0; i < t.shape.rank; ++i) shape.push_back(t.shape[i]);
      for (const StoredArray& a : u.arrays) {
        if (a.trained == t.trained) arrays.push_back(a.name);
      }
      tensors.push_back({{"name", t.name}, {"shape", shape}, {"unit", u.name}, {"trained", t.trained}, {"arrays", arrays}});
    }
  }
  return tensors;
}

std::string text_report(const Manifest& m, const std::string& fault) {
  std::string s = "step " + std::to_string(m.step) + ", written by " + std::to_string(m.content.world) + (m.content.world == 1 ? " rank" : " ranks") +
                  ", run " + printable(m.run_id) + "\n";
  uint64_t bytes = 0;
  for (const ManifestFile& f : m.files) bytes += f.bytes;
  s += std::to_string(m.files.size()) + " files, " + std::to_string(bytes) + " bytes\n";
  for (const ManifestFile& f : m.files) s += "  " + printable(f.name) + "  " + std::to_string(f.bytes) + " bytes  xxh3 " + printable(f.digest) + "\n";
  for (const StoredUnit& u : m.content.units) {
    s += printable(u.name) + ":";
    for (const StoredArray& a : u.arrays) s += " " + printable(a.name) + " (" + name_of(a.dtype) + ")";
    s += "\n";
    for (const StoredTensor& t : u.tensors) s += "  " + printable(t.name) + " " + t.shape.text() + (t.trained ? "" : " frozen") + "\n";
  }
  s += fault.empty() ? "every digest is right\n" : "DAMAGED: " + printable(fault, true) + "\n";
  return s;
}

// What a reader would refuse though every digest is right: links, foreign storage, arrays of another type or size. "" if nothing.
std::string fault_of_structure(const std::string& folder, const Manifest& manifest) {
  try {
    CheckpointReader reader(folder, manifest);
    reader.check();
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

}  // namespace

int command_inspect(const std::vector<std::string>& args, App& app) {
  CommandLine line(
      "inspect", "CHECKPOINT [--json]",
      "Lists step, ranks, tensors, sizes and digests of a checkpoint-<step> folder and verifies every byte. Exit code 0: whole, 1: damaged.");
  line.options.add_options()("json", "one JSON object on one line");
  line.take_words("CHECKPOINT", 1);
  if (!line.parse(args, app)) return kExitDone;
  if (line.words().empty()) throw InputError("llmtrain inspect", "CHECKPOINT is missing", "name a checkpoint-<step> folder");
  const std::string folder = line.words().front();
  check_is_checkpoint(folder);
  SoloGroup solo;
  Manifest manifest;
  std::string fault;
  try {
    manifest = read_manifest(folder);
    fault = verify_files(folder, manifest, solo);
    if (fault.empty()) fault = fault_of_structure(folder, manifest);
  } catch (const NewerFormat&) {
    throw;
  } catch (const InputError& e) {  // a damaged manifest: damage, not a wrong input
    if (line.has("json")) {
      app.print(dump_json({{"checkpoint", folder}, {"valid", false}, {"fault", e.what()}}) + "\n");
    } else {
      app.print("DAMAGED: " + printable(e.what(), true) + "\n");
    }
    return kExitFailed;
  }
  if (line.has("json")) {
    Json files = Json::array();
    for (const ManifestFile& f : manifest.files) files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"xxh3_128", f.digest}});
    Json out = {{"checkpoint", folder},
                {"valid", fault.empty()},
                {"step", manifest.step},
                {"world_size", manifest.content.world},
                {"run_id", manifest.run_id},
                {"files", files},
                {"tensors", tensors_json(manifest)},
                {"state", manifest.state},
                {"build", manifest.build}};
    if (!fault.empty()) out["fault"] = fault;
    app.print(dump_json(out) + "\n");
  } else {
    app.print(text_report(manifest, fault));
  }
  return fault.empty() ? kExitDone : kExitFailed;
}

}  // namespace llmtrain
