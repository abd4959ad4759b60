// SPDX-License-Identifier: Apache-2.0

package tracer

import "github.com/cilium/ebpf/btf"

// Types are the running kernel's own type descriptions (BTF): where each field of
// each struct is. Parsing them takes some 30 ms, so whoever loads several times
// shares one. Safe for concurrent use; parsed when first needed.
type Types struct{ cache *btf.Cache }

// NewTypes returns Types that nothing was parsed of yet.
func NewTypes() *Types { return &Types{btf.NewCache()} }
