// The content of a manifest made by somebody who knows the digest: sizes must be refused before anything is multiplied.
#include <gtest/gtest.h>

#include "checkpoint/content.h"
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

}  // namespace
}  // namespace llmtrain
