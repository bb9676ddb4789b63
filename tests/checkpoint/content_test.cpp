// The content of a manifest made by somebody who knows the digest: sizes must be refused before anything is multiplied.
#include <gtest/gtest.h>

#include "checkpoint/content.h"
#include "checkpoint/manifest.h"
#include "core/error.h"

namespace llmtrain {
namespace {

Json content(const char* world, const char* offset, const char* shard_elements) {
  return parse_json(std::string("{\"world_size\":") + world + ",\"units\":[{\"name\":\"u\",\"tensors\":[{\"name\":\"t\",\"shape\":[4],\"trained\":true,\"offset\":" + offset +
                        "}],\"arrays\":[{\"name\":\"weight\",\"dtype\":\"float32\",\"trained\":true,\"shard_elements\":" + shard_elements + "}]}]}",
                    "content");
}

TEST(CheckpointContent, SizesThatWouldOverflowAreRefused) {
  EXPECT_NO_THROW(content_from_json(content("2", "0", "2"), "m"));
  EXPECT_THROW(content_from_json(content("2", "1", "2"), "m"), InputError);
  EXPECT_THROW(content_from_json(content("1048576", "0", "70368744177664"), "m"), InputError);  // 2^20 * 2^46
  EXPECT_THROW(content_from_json(content("2", "70368744177665", "4"), "m"), InputError);
  EXPECT_THROW(content_from_json(content("1e300", "0", "4"), "m"), InputError);
  EXPECT_THROW(content_from_json(content("2", "0", "18446744073709551615"), "m"), InputError);
}

// A checkpoint whose manifest read_manifest() refuses for its length could never be used: it must not be committed.
TEST(CheckpointContent, AManifestTooLongToBeReadIsNotWritten) {
  Manifest manifest;
  manifest.step = 7;
  manifest.state = {{"log", std::string(2000, 'x')}};
  const std::string text = dump_manifest(manifest);
  EXPECT_EQ(dump_manifest(manifest, text.size()), text);
  try {
    dump_manifest(manifest, text.size() - 1);
    FAIL() << "written";
  } catch (const OperationError& e) {
    EXPECT_NE(std::string(e.what()).find("logging_steps"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace llmtrain
