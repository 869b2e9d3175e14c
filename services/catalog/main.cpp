#include "catalog/catalog.hpp"

int main(int argc, char** argv) { return common::run_service(catalog::service(), argc, argv); }
