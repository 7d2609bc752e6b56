/*
 * Fields of Artifact Manifest 1.0 that neither validator checks and nothing of ours depends on: a fault there must not
 * refuse an export that both of them accept. The value is left out with a warning, or kept where it can still serve.
 */
const informational = /^(?:notes|warnings|metadata|nics)(?:\.|$)|^source\.(?!vm_name)/

export function isLenient(path: readonly (string | number)[], value: unknown): 'drop' | 'keep' | undefined {
  const text = path.filter((p) => typeof p === 'string').join('.')
  if (text === 'nics.mac') return typeof value === 'string' && value.length >= 17 ? 'drop' : undefined
  if (text === 'nics') return undefined
  if (informational.test(text)) return 'drop'
  if (text === 'pipeline.convert.compress_level' || text === 'options.verbose')
    return typeof value === 'number' ? 'drop' : undefined
  return undefined
}
