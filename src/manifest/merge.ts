type Fields = Record<string, unknown>

const isObject = (v: unknown): v is Fields => typeof v === 'object' && v !== null && !Array.isArray(v)

/** Of `shared_config`: where hyper2kvm wrote results. It is no field of a VM's manifest. */
const batchOnly = new Set(['output_directory'])

/**
 * What the batch shares, under the VM's own manifest, under its overrides. Objects are merged field by field; lists and other values of the
 * upper one replace those of the lower one. Nothing given is changed.
 */
export function mergedManifest(shared: Fields | undefined, own: Fields, overrides: Fields | undefined): Fields {
  const below = Object.fromEntries(Object.entries(shared ?? {}).filter(([key]) => !batchOnly.has(key)))
  return merge(merge(below, own), namedBySource(overrides ?? {}))
}

function merge(below: Fields, above: Fields): Fields {
  const out = new Map(Object.entries(below))
  for (const [key, value] of Object.entries(above)) {
    const under = out.get(key)
    if (value === undefined || value === null) continue // "not given", as everywhere in a manifest
    out.set(key, isObject(value) && isObject(under) ? merge(under, value) : value)
  }
  return Object.fromEntries(out)
}

/** hyper2kvm's example of an override names the VM in `output.vm_name`; the name of the answer is `source.vm_name`. */
function namedBySource(overrides: Fields): Fields {
  if (!isObject(overrides.output) || typeof overrides.output.vm_name !== 'string') return overrides
  const { vm_name, ...output } = overrides.output
  const source = isObject(overrides.source) ? overrides.source : {}
  return { ...overrides, output, source: { vm_name, ...source } }
}
