#include "core/manifest.hpp"

#include <algorithm>
#include <cctype>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "core/failure.hpp"
#include "core/files.hpp"
#include "core/image.hpp"

namespace sparsesam {
namespace {

using nlohmann::json;

constexpr std::int64_t schema_version = 4;
constexpr int max_depth = 64;  // a parity report nests five levels
constexpr std::size_t max_problem_length = 200;

// What is wrong with a document, without the sentence around it.
class Problem : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void refuse(const std::string& where, const std::string& problem) {
  throw Problem(where.empty() ? problem : where + ": " + problem);
}

json parse_json(std::string_view content) {
  const auto bound_depth = [](int depth, json::parse_event_t, json&) {
    if (depth > max_depth) {
      throw Problem("nested deeper than " + std::to_string(max_depth) + " levels");
    }
    return true;
  };
  try {
    return json::parse(content, bound_depth);
  } catch (const json::exception& error) {
    const std::string_view text = error.what();  // "[json.exception.parse_error.101] parse error at line 1 ..."
    const std::size_t end = text.find("] ");
    throw Problem(std::string("invalid JSON, ").append(end == std::string_view::npos ? text : text.substr(end + 2)));
  }
}

// A value and where it stands in the document.
struct Field {
  const json& value;
  std::string where;

  [[nodiscard]] const json* find(const char* key) const {
    if (!value.is_object()) {
      refuse(where, "should be an object");
    }
    const auto found = value.find(key);
    return found == value.end() ? nullptr : &*found;
  }

  Field operator[](const char* key) const {
    std::string path = where.empty() ? key : where + "." + key;
    const json* found = find(key);
    if (found == nullptr) {
      refuse(path, "field required");
    }
    return {*found, std::move(path)};
  }

  [[nodiscard]] std::string text() const {
    if (!value.is_string()) {
      refuse(where, "should be a string");
    }
    auto result = value.get<std::string>();
    if (result.find('\0') != std::string::npos) {
      refuse(where, "should hold no NUL");
    }
    return result;
  }

  std::int64_t integer(std::int64_t low, std::int64_t high) const {
    const bool fits =
        value.is_number_integer() &&
        (!value.is_number_unsigned() ||
         value.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
    if (!fits || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high) {
      refuse(where, "should be an integer from " + std::to_string(low) + " to " + std::to_string(high));
    }
    return value.get<std::int64_t>();
  }

  [[nodiscard]] double number() const {
    if (!value.is_number()) {
      refuse(where, "should be a number");
    }
    return value.get<double>();
  }

  [[nodiscard]] bool boolean() const {
    if (!value.is_boolean()) {
      refuse(where, "should be true or false");
    }
    return value.get<bool>();
  }

  [[nodiscard]] std::vector<Field> list() const {
    if (!value.is_array()) {
      refuse(where, "should be a list");
    }
    std::vector<Field> items;
    for (const json& item : value) {
      items.push_back({item, where + "." + std::to_string(items.size())});
    }
    return items;
  }
};

std::string one_of(const Field& field, const std::set<std::string>& allowed) {
  std::string text = field.text();
  if (allowed.count(text) == 0) {
    std::string names;
    for (const std::string& name : allowed) {
      names += (names.empty() ? "" : ", ") + name;
    }
    refuse(field.where, "should be one of " + names);
  }
  return text;
}

// A name inside the manifest's folder: no path leads out of it.
std::string file_name(const Field& field) {
  std::string name = field.text();
  if (name.find_first_of("/\\") != std::string::npos || name.find_first_not_of('.') == std::string::npos) {
    refuse(field.where, "should be a file name without a path");
  }
  return name;
}

std::string hash(const Field& field) {
  std::string text = field.text();
  if (text.size() != 64 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    refuse(field.where, "should be a SHA-256, 64 lower-case hexadecimal digits");
  }
  return text;
}

FileRecord file_record(const Field& field) {
  const std::int64_t bytes = field["bytes"].integer(0, std::numeric_limits<std::int64_t>::max());
  return {file_name(field["name"]), hash(field["sha256"]), static_cast<std::uint64_t>(bytes)};
}

// The runtime prepares images by SAM's own constants; a manifest with others is of another model.
void require_sam_preprocessing(const Field& preprocessing) {
  preprocessing["image_size"].integer(image_size, image_size);
  const auto require_same = [&preprocessing](const char* key, const std::array<float, 3>& expected) {
    const std::vector<Field> values = preprocessing[key].list();
    bool same = values.size() == expected.size();
    for (std::size_t i = 0; same && i < values.size(); ++i) {
      same = static_cast<float>(values[i].number()) == expected.at(i);
    }
    if (!same) {
      refuse(preprocessing[key].where, "should be SAM's own, this runtime prepares images by no other");
    }
  };
  require_same("pixel_mean", pixel_mean);
  require_same("pixel_std", pixel_std);
}

Manifest build_manifest(const Field& root) {
  constexpr std::int64_t most_images = 65536;
  Manifest manifest;
  manifest.engine = file_record(root["engine"]);
  if (const Field decoder = root["decoder_engine"]; !decoder.value.is_null()) {
    manifest.decoder_engine = file_record(decoder);
  }
  manifest.family = root["family"].text();
  manifest.builder = one_of(root["builder"], {"tensorrt", "tensorrt-rtx"});
  manifest.builder_version = root["builder_version"].text();
  manifest.version_compatible = root.find("version_compatible") != nullptr && root["version_compatible"].boolean();
  for (const Field& capability : root["compute_capabilities"].list()) {
    manifest.compute_capabilities.push_back(capability.text());
  }
  if (manifest.compute_capabilities.empty()) {
    refuse("compute_capabilities", "should name at least one GPU");
  }
  for (const Field& plugin : root["plugins"].list()) {
    const PluginRequirement requirement{plugin["name"].text(), file_name(plugin["library"]), hash(plugin["sha256"])};
    if (plugin.find("embedded") != nullptr && plugin["embedded"].boolean()) {
      manifest.embeds_plugins = true;
    } else {
      manifest.plugins.push_back(requirement);
    }
  }
  manifest.precision = one_of(root["precision"], {"fp32", "fp16", "bf16"});
  const Field batch = root["batch"];
  manifest.batch_min = static_cast<std::int32_t>(batch["min"].integer(1, most_images));
  manifest.batch_opt = static_cast<std::int32_t>(batch["opt"].integer(manifest.batch_min, most_images));
  manifest.batch_max = static_cast<std::int32_t>(batch["max"].integer(manifest.batch_opt, most_images));
  require_sam_preprocessing(root["preprocessing"]);
  return manifest;
}

// Bytes of a damaged file must not reach a terminal or a log as they are.
std::string printable(const char* text) {
  std::string result = text;
  result.resize(std::min(result.size(), max_problem_length));
  std::replace_if(result.begin(), result.end(), [](unsigned char byte) { return byte < 0x20 || byte > 0x7e; }, '?');
  return result;
}

}  // namespace

Manifest parse_manifest(std::string_view content, const std::filesystem::path& path) {
  try {
    const json document = parse_json(content);
    const Field root{document, ""};
    constexpr std::int64_t any = std::numeric_limits<std::int64_t>::max();
    if (const std::int64_t version = root["schema_version"].integer(-any, any); version != schema_version) {
      throw Failure(SPARSESAM_INVALID_INPUT,
                    path.string() + " has schema version " + std::to_string(version) + ", this runtime reads " +
                        std::to_string(schema_version) +
                        "; install the runtime of the release that wrote it or rebuild with `sparsesam-export build`.");
    }
    return build_manifest(root);
  } catch (const Problem& problem) {
    throw Failure(SPARSESAM_INVALID_INPUT, path.string() + " is not an engine manifest (" + printable(problem.what()) +
                                               "); rebuild with `sparsesam-export build`.");
  }
}

EngineFolder open_folder(const std::string& path) {
  std::error_code ignored;
  std::filesystem::path manifest = path;
  if (std::filesystem::is_directory(manifest, ignored)) {
    manifest /= "manifest.json";
  }
  const Content content =
      read_file(manifest, max_manifest_bytes, "engine manifest", "name a folder made by `sparsesam-export build`.");
  return {manifest.parent_path(), parse_manifest(content.view(), manifest)};
}

}  // namespace sparsesam
