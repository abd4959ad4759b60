// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"slices"
	"sync"

	"github.com/cilium/ebpf/btf"
)

// Types are what the running kernel says of itself: where each field of each
// struct is (BTF), and where those functions stand that tell why a TIME_WAIT ends
// (kallsyms). Reading it takes some 80 ms, so whoever loads several times
// shares one. Safe for concurrent use; each part is read when first needed.
type Types struct {
	cache *btf.Cache

	once      sync.Once
	functions map[string][]extent
	err       error
}

// NewTypes returns Types that nothing was read of yet.
func NewTypes() *Types { return &Types{cache: btf.NewCache()} }

// hasHelper tells whether the kernel has a BPF helper, named as in enum bpf_func_id.
func (t *Types) hasHelper(name string) (bool, error) {
	kernel, err := t.cache.Kernel()
	if err != nil {
		return false, err
	}
	var helpers *btf.Enum
	if err := kernel.TypeByName("bpf_func_id", &helpers); err != nil {
		return false, err
	}
	return slices.ContainsFunc(helpers.Values, func(v btf.EnumValue) bool { return v.Name == name }), nil
}

// culprits gives the place of each function in the map of that name.
func (t *Types) culprits() (map[string][]extent, error) {
	t.once.Do(func() {
		names := make(map[string]bool)
		for name := range culprits {
			names[name] = true
		}
		t.functions, t.err = extents(names)
	})
	return t.functions, t.err
}
