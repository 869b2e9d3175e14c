#pragma once
/// The store on disk.

#include <cstdint>
#include <expected>
#include <memory>
#include <string>

#include "common/store/store.hpp"

namespace common::store {

/// What a database says of itself: whose it is, and in which layout. It is checked at every open.
struct stamp {
  std::string owner;  ///< "catalog-service"
  std::uint32_t version = 1;
};

/// Opens the RocksDB database in folder `path`, or makes one where there is nothing (missing or empty folder). The
/// error is one sentence for the operator: another process has it open, it is another service's or version's, or it is
/// damaged. It is looked through read-only first, so what is refused is left untouched to the byte. Cost: every block
/// is read once and its checksum compared.
std::expected<std::unique_ptr<store>, std::string> open_rocksdb(const std::string& path, const stamp& mine);

}  // namespace common::store
