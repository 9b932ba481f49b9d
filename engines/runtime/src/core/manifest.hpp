// manifest.json beside an engine: what a loader needs of it to refuse a mismatch before it deserialises anything.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sparsesam {

// A file of the manifest's folder: its name, the SHA-256 of its content, its size in bytes.
struct FileRecord {
  std::string name;
  std::string sha256;
  std::uint64_t bytes = 0;
};

// A plugin the engine needs, and the library to load for it.
struct PluginRequirement {
  std::string name;
  std::string library;
  std::string sha256;
};

struct Manifest {
  FileRecord engine;
  std::optional<FileRecord> decoder_engine;
  std::string family;
  std::string builder;
  std::string builder_version;
  bool version_compatible = false;
  std::vector<std::string> compute_capabilities;  // "SM89"
  std::vector<PluginRequirement> plugins;         // those that the engine does not carry itself
  bool embeds_plugins = false;
  std::string precision;
  std::int32_t batch_min = 1;
  std::int32_t batch_opt = 1;
  std::int32_t batch_max = 1;
  bool failed_parity = false;  // checked, and not the same function as the checkpoint
};

// The largest file that is read as a manifest; as sparsesam_deploy has it.
constexpr std::size_t max_manifest_bytes = std::size_t{8} << 20U;

// Parse and validate a manifest. `path` is named in messages alone.
// Failure INVALID_INPUT: it is no manifest, is of another schema version, or describes another preparation of images
// than SAM's.
Manifest parse_manifest(std::string_view content, const std::filesystem::path& path);

// A manifest and the folder its files lie in.
struct EngineFolder {
  std::filesystem::path path;    // of the manifest
  std::filesystem::path folder;  // "." for a manifest named without one
  Manifest manifest;
};

// Read the manifest of `path`, a folder or the manifest itself. Failure INVALID_INPUT: see parse_manifest.
EngineFolder open_folder(const std::string& path);

}  // namespace sparsesam
