// check_reference FOLDER… [--config NAME] [--device cpu|cuda] [--communicator NAME] [--quiet]: holds the engine against reference values of
// transformers. Runs alone or under mpirun; several ranks on one GPU need --communicator staged.
//
// Each FOLDER is a model folder with reference.safetensors beside it: input_ids, labels, logits, logits_bf16, loss, grad.<tensor>, losses,
// grad_norms, after.<tensor> (optional) and generated. For each quantity the largest error is printed beside its tolerance; the exit code is 1 when
// one is exceeded, 2 when a folder cannot be read.
//
// Where the tolerances come from. The reference holds the same logits computed in bfloat16; e = max |logits_bf16 - logits| measures how much this
// very model amplifies one rounding per operation. float32 rounds 2^16 times finer, so one rounding per operation costs e * 2^-16; sums of K terms
// round up to sqrt(K) times more often, in the reference and here. Hence
//   logits    k e 2^-16, k = 2 (two implementations) * sqrt(longest sum)
//   loss      the same: the loss changes by at most twice the largest change of a logit, and the mean over tokens averages it
//   gradient  2 k (e / max |logits|) 2^-16 * scale: forward and backward each as long; scale = the largest gradient of the tensor, at least a tenth
//             of the largest of all (gradients that cancel to nearly nothing, as that of a bias of k, carry the rounding of what cancels)
//   step s    losses[s]: tolerance of the loss, plus what s AdamW steps may have moved: an element whose gradient g has an error t moves by at most
//             lr min(2, t / |g|) differently, and the loss by the sum of |g| times that with random signs
//   after     root mean square over the tensor of those differences of steps, times 2 for the steps that follow from each other
//   bfloat16  the error of the engine run in bfloat16 against the float32 reference: root mean square at most twice that of the reference's own
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>

#include "comm/context.h"
#include "core/error.h"
#include "hf/model_folder.h"
#include "model/model_config.h"
#include "model/model_weights.h"
#include "train/engine.h"

namespace llmtrain {
namespace {

constexpr double kBf16OverFloat32 = 1.0 / 65536;
constexpr float kLearningRate = 1e-3f;
constexpr int kPromptTokens = 8;

std::vector<float> floats(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* e = file.find(name);
  if (!e) throw InputError(file.path(), "no tensor " + name);
  std::vector<float> v(static_cast<size_t>(e->shape.elements()));
  file.read_range(*e, 0, e->shape.elements(), v.data(), DType::float32);
  return v;
}

std::vector<int32_t> integers(const SafetensorsFile& file, const std::string& name, Shape* shape = nullptr) {
  const SafetensorsEntry* e = file.find(name);
  if (!e) throw InputError(file.path(), "no tensor " + name);
  std::vector<int64_t> v(static_cast<size_t>(e->shape.elements()));
  file.read_range(*e, 0, e->shape.elements(), v.data(), DType::int64);
  if (shape) *shape = e->shape;
  return {v.begin(), v.end()};
}

double largest(const std::vector<float>& v) {
  double m = 0;
  for (float x : v) m = std::max(m, std::abs(static_cast<double>(x)));
  return m;
}

struct CheckOptions {
  std::string config_name = "config.json", device = "cpu", communicator = "auto";
  bool quiet = false;
};

class Check {
 public:
  Check(MpiRuntime& mpi, RankGroup& group, Log& log, const std::string& folder, const CheckOptions& how)
      : mpi_(mpi), group_(group), log_(log), folder_(folder), how_(how), config_(load_model_config(folder + "/" + how.config_name)),
        file_(SafetensorsFile::open(folder + "/reference.safetensors")) {
    ids_ = integers(file_, "input_ids", &shape_);
    labels_ = integers(file_, "labels");
    logits_ = floats(file_, "logits");
    logits_bf16_ = floats(file_, "logits_bf16");
    for (size_t i = 0; i < logits_.size(); ++i) bf16_error_ = std::max(bf16_error_, std::abs(static_cast<double>(logits_bf16_[i]) - logits_[i]));
    const double sum = static_cast<double>(std::max(config_.intermediate_size, config_.hidden_size));
    k_ = 2 * std::sqrt(sum);
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t i = 1; i < length(); ++i) targets_ += label(row, i) != kIgnore;
    }
    for (const TensorSpec& t : all_tensors(config_)) largest_gradient_ = std::max(largest_gradient_, largest(floats(file_, "grad." + t.name)));
  }

  bool run() {
    float32_training();
    bfloat16_logits();
    generation();
    if (group_.rank() == 0)
      std::printf("%s %s: worst error / tolerance %.2f (%s)\n", ok_ ? "ok  " : "FAIL", folder_.c_str(), worst_, worst_name_.c_str());
    return ok_;
  }

 private:
  int64_t rows() const { return shape_[0]; }
  int64_t length() const { return shape_[1]; }
  int32_t label(int64_t row, int64_t i) const { return labels_[static_cast<size_t>(row * length() + i)]; }
  double loss_tolerance() const { return k_ * bf16_error_ * kBf16OverFloat32; }
  double gradient_tolerance(double tensor_largest) const {
    return 2 * k_ * bf16_error_ / largest(logits_) * kBf16OverFloat32 * std::max(tensor_largest, 0.1 * largest_gradient_);
  }

  void report(const std::string& what, double error, double tolerance) {
    const bool good = error <= tolerance;  // NaN is not
    ok_ = ok_ && good;
    const double ratio = tolerance > 0 ? error / tolerance : (error > 0 ? std::numeric_limits<double>::infinity() : 0);
    if (!(ratio <= worst_)) worst_ = ratio, worst_name_ = what;
    if (group_.rank() == 0 && (!how_.quiet || !good))
      std::printf("  %-6s %-52s error %.3g  tolerance %.3g\n", good ? "" : "EXCEEDS", what.c_str(), error, tolerance);
  }

  double over_ranks(double value, bool sum) {
    std::vector<double> all(static_cast<size_t>(group_.size()));
    group_.all_gather(&value, all.data(), sizeof value);
    double result = 0;
    for (double v : all) result = sum ? result + v : (v > result || v != v ? v : result);
    return result;
  }

  // Rows r, r + N, … of the batch.
  Batch my_rows() const {
    Batch b;
    b.clear();
    for (int64_t row = group_.rank(); row < rows(); row += group_.size()) {
      const auto at = static_cast<size_t>(row * length()), n = static_cast<size_t>(length());
      b.add_row({ids_.data() + at, n}, {labels_.data() + at, n}, {}, true);
    }
    b.rope_length = length();
    return b;
  }

  EngineOptions options(DType compute, bool training) const {
    EngineOptions o;
    o.device = how_.device;
    o.communicator = how_.communicator;
    o.compute = compute;
    o.training = training;
    o.max_tokens = rows() * length();
    o.longest_sequence = o.max_positions = length();
    o.adamw.beta2 = 0.95;
    o.adamw.weight_decay = 0.1;
    o.max_positions = std::max<int64_t>(o.max_positions, kPromptTokens + 12);
    o.longest_sequence = o.max_positions;
    return o;
  }

  // Errors of the logits of this rank's rows: largest, and sum of squares.
  std::pair<double, double> logit_errors(Transformer& model, const Batch& batch) const {
    const auto v = static_cast<size_t>(config_.vocab_size);
    std::vector<float> got(static_cast<size_t>(batch.size()) * v);
    model.forward_logits(batch, got);
    double most = 0, squares = 0;
    size_t at = 0;
    for (int64_t row = group_.rank(); row < rows(); row += group_.size()) {
      for (size_t i = 0; i < static_cast<size_t>(length()) * v; ++i, ++at) {
        const double d = static_cast<double>(got[at]) - logits_[static_cast<size_t>(row * length()) * v + i];
        most = d != d ? d : std::max(most, std::abs(d));
        squares += d * d;
      }
    }
    return {most, squares};
  }

  static std::vector<float> on_host(Engine& engine, TensorView x) {
    std::vector<float> values(static_cast<size_t>(x.elements()));
    if (values.empty()) return values;
    engine.device().copy_to_host(engine.compute_stream(), values.data(), x.data, x.bytes());
    engine.compute_stream().synchronize();
    return values;
  }

  void compare_gradients(Engine& engine) {
    ParameterManager& manager = engine.manager();
    const ShardLayout& layout = manager.layout();
    for (int u = 0; u < static_cast<int>(layout.units().size()); ++u) {
      const std::vector<float> shard = on_host(engine, manager.gradient(u));
      const std::vector<OwnedRange> owned = layout.owned(u, true, group_.rank());
      for (int p = 0; p < static_cast<int>(layout.units()[static_cast<size_t>(u)].parameters.size()); ++p) {
        const std::string& name = layout.units()[static_cast<size_t>(u)].parameters[static_cast<size_t>(p)].name;
        const std::vector<float> want = floats(file_, "grad." + name);
        double most = 0;
        for (const OwnedRange& r : owned) {
          if (r.parameter != p) continue;
          for (int64_t i = 0; i < r.count; ++i) {
            const double d = std::abs(static_cast<double>(shard[static_cast<size_t>(r.shard_begin + i)]) - want[static_cast<size_t>(r.tensor_begin + i)]);
            most = d != d ? d : std::max(most, d);
          }
        }
        report("grad " + name, over_ranks(most, false), gradient_tolerance(largest(want)));
      }
    }
  }

  // The row of a token that does not occur: its gradient is exactly zero here and there.
  static bool unused(const std::string& name, float gradient) { return gradient == 0.0f && name == "model.embed_tokens.weight"; }

  // How far AdamW may have moved each element differently after `steps`, from the error that its gradient may have.
  double step_difference(float gradient, double tolerance, double steps) const {
    return steps * kLearningRate * std::min(2.0, tolerance / std::max(std::abs(static_cast<double>(gradient)), 1e-30));
  }

  void compare_steps(Engine& engine, const Batch& batch) {
    const std::vector<float> losses = floats(file_, "losses"), norms = floats(file_, "grad_norms");
    double moved_per_step = 0, tolerance_square = 0;  // of the loss, one step; of the gradient norm
    for (const TensorSpec& t : all_tensors(config_)) {
      const std::vector<float> g = floats(file_, "grad." + t.name);
      const double tolerance = gradient_tolerance(largest(g));
      tolerance_square += tolerance * tolerance * static_cast<double>(g.size());
      for (float x : g) {
        const double d = std::abs(static_cast<double>(x)) * step_difference(x, tolerance, 1);
        moved_per_step += d * d;
      }
    }
    for (size_t s = 0; s < losses.size(); ++s) {
      const double loss = s == 0
                              ? first_loss_
                              : over_ranks(engine.forward_backward(batch, 1.0 / static_cast<double>(targets_)), true) / static_cast<double>(targets_);
      const AdamW::Result r = engine.update(kLearningRate);
      const double moved = std::sqrt(moved_per_step) * static_cast<double>(s) * 2;
      const double tolerance = loss_tolerance() * static_cast<double>(s + 1) + moved;
      report("loss before step " + std::to_string(s + 1), std::abs(loss - losses[s]), tolerance);
      report("gradient norm, step " + std::to_string(s + 1), std::abs(r.grad_norm - norms[s]),
             (std::sqrt(tolerance_square) + 1e-7 * norms[s]) * static_cast<double>(s + 1));
    }
    compare_weights(engine, static_cast<double>(losses.size()));
  }

  void compare_weights(Engine& engine, double steps) {
    struct Sum {
      double difference = 0, allowed = 0;
    };
    std::map<std::string, Sum> sums;
    std::string name;
    std::vector<float> want, gradient;
    engine.manager().read_weights([&](const ParameterSpec& parameter, int64_t begin, int64_t count, const float* values) {
      if (!file_.find("after." + parameter.name)) return;
      if (name != parameter.name) name = parameter.name, want = floats(file_, "after." + name), gradient = floats(file_, "grad." + name);
      const double tolerance = gradient_tolerance(largest(gradient));
      Sum& sum = sums[name];
      for (int64_t i = 0; i < count; ++i) {
        const auto at = static_cast<size_t>(begin + i);
        const double d = static_cast<double>(values[i]) - want[at], allowed = unused(name, gradient[at]) ? 0 : step_difference(gradient[at], tolerance, steps);
        sum.difference += d * d;
        sum.allowed += allowed * allowed;
      }
    });
    for (const TensorSpec& t : all_tensors(config_)) {
      if (!file_.find("after." + t.name)) continue;
      const double elements = static_cast<double>(t.shape.elements());
      const double rms = std::sqrt(over_ranks(sums[t.name].difference, true) / elements);
      report("after " + t.name + " (rms)", rms, 2 * std::sqrt(over_ranks(sums[t.name].allowed, true) / elements) + 1.2e-7);
    }
  }

  void float32_training() {
    Engine engine(mpi_, group_, config_, options(DType::float32, true), log_);
    engine.load_weights(ModelFolder::open(folder_));
    const Batch batch = my_rows();
    report("logits", over_ranks(logit_errors(engine.transformer(), batch).first, false), loss_tolerance());
    const double n = static_cast<double>(targets_);
    first_loss_ = over_ranks(engine.forward_backward(batch, 1.0 / n), true) / n;
    report("loss", std::abs(first_loss_ - floats(file_, "loss")[0]), loss_tolerance());
    const double evaluated = over_ranks(engine.transformer().forward_loss(batch), true) / n;
    // The same kernels in the same order; a GPU's library may choose others where no statistics are to be kept.
    report("loss without gradients", std::abs(evaluated - first_loss_), engine.device().kind() == DeviceKind::cpu ? 0.0 : loss_tolerance());
    compare_gradients(engine);
    compare_steps(engine, batch);
  }

  void bfloat16_logits() {
    Engine engine(mpi_, group_, config_, options(DType::bfloat16, false), log_);
    engine.load_weights(ModelFolder::open(folder_));
    double squares = 0;
    for (size_t i = 0; i < logits_.size(); ++i) squares += std::pow(static_cast<double>(logits_bf16_[i]) - logits_[i], 2);
    const double n = static_cast<double>(logits_.size()), own = over_ranks(logit_errors(engine.transformer(), my_rows()).second, true);
    report("logits in bfloat16 (rms)", std::sqrt(own / n), 2 * std::sqrt(squares / n));
  }

  void generation() {
    EngineOptions o = options(DType::float32, false);
    Shape shape;
    const std::vector<int32_t> want = integers(file_, "generated", &shape);
    o.cache_tokens = kPromptTokens + shape[1];
    Engine engine(mpi_, group_, config_, o, log_);
    engine.load_weights(ModelFolder::open(folder_));
    std::vector<float> logits(static_cast<size_t>(config_.vocab_size));
    double different = 0;
    for (int64_t row = 0; row < shape[0]; ++row) {
      engine.transformer().clear_cache();
      std::vector<int32_t> next(ids_.begin() + row * length(), ids_.begin() + row * length() + kPromptTokens);
      for (int64_t i = 0; i < shape[1]; ++i) {
        engine.transformer().extend(next, logits);
        next.assign(1, static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
        different += next[0] != want[static_cast<size_t>(row * shape[1] + i)];
      }
    }
    report("generated tokens that differ", different, 0.0);
  }

  MpiRuntime& mpi_;
  RankGroup& group_;
  Log& log_;
  std::string folder_;
  CheckOptions how_;
  ModelConfig config_;
  SafetensorsFile file_;
  Shape shape_;
  std::vector<int32_t> ids_, labels_;
  std::vector<float> logits_, logits_bf16_;
  double bf16_error_ = 0, k_ = 0, largest_gradient_ = 0, first_loss_ = 0;
  int64_t targets_ = 0;
  bool ok_ = true;
  double worst_ = 0;
  std::string worst_name_;
};

int run(int argc, char** argv, MpiRuntime& mpi) {
  CheckOptions how;
  std::vector<std::string> folders;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--config") && i + 1 < argc) {
      how.config_name = argv[++i];
    } else if (!std::strcmp(argv[i], "--device") && i + 1 < argc) {
      how.device = argv[++i];
      if (how.device != "cpu" && how.device != "cuda") throw InputError("--device", "'" + how.device + "' is unknown", "choose cpu or cuda");
    } else if (!std::strcmp(argv[i], "--communicator") && i + 1 < argc) {
      how.communicator = argv[++i];
    } else if (!std::strcmp(argv[i], "--quiet")) {
      how.quiet = true;
    } else if (!std::strncmp(argv[i], "--", 2)) {
      throw InputError(argv[i], "is no option of check_reference", "check_reference FOLDER… [--config NAME] [--device cpu|cuda] [--communicator NAME] [--quiet]");
    } else {
      folders.emplace_back(argv[i]);
    }
  }
  if (folders.empty()) throw InputError("usage: check_reference FOLDER… [--config config.json] [--device cpu|cuda] [--communicator NAME] [--quiet]");
  const std::unique_ptr<RankGroup> group = make_rank_group(mpi);
  Log log(mpi.rank(), mpi.rank() == 0);
  log.set_quiet(true);
  int failed = 0;
  for (const std::string& folder : folders) failed += !Check(mpi, *group, log, folder, how).run();
  if (mpi.rank() == 0) std::printf("%zu passed, %d failed\n", folders.size() - static_cast<size_t>(failed), failed);
  return failed > 0 ? kExitFailed : kExitDone;
}

}  // namespace
}  // namespace llmtrain

int main(int argc, char** argv) {
  llmtrain::MpiRuntime mpi(&argc, &argv);
  int code = llmtrain::kExitDone;
  try {
    code = llmtrain::run(argc, argv, mpi);
  } catch (const std::exception& e) {
    if (mpi.rank() == 0) std::fprintf(stderr, "check_reference: %s\n", e.what());
    code = dynamic_cast<const llmtrain::InputError*>(&e) ? llmtrain::kExitInput : llmtrain::kExitFailed;
    if (mpi.size() > 1) mpi.abort(code);
  }
  mpi.finalise();
  return code;
}
