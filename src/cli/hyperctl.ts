/**
 * HyperSDK's hyperctl writes its options the Go way: `daemon -op status -instance vsphere -json` (contract A4). Scripts that
 * call it need only another program name.
 */
export function fromHyperctl(args: readonly string[]): string[] {
  if (args[0] !== 'daemon') return [...args]
  const options: string[] = []
  let operation: string | undefined
  for (let i = 1; i < args.length; i++) {
    const m = /^--?(op|instance|json)(?:=(.*))?$/.exec(args[i]!)
    const isOurs = args[i]!.startsWith('--') && m?.[1] === 'instance'
    if (m === null || isOurs) {
      options.push(args[i]!)
      continue
    }
    if (m[1] === 'json') options.push('--output', 'json')
    else if (m[1] === 'op') operation = m[2] ?? args[++i] ?? ''
    else options.push('--instance', m[2] ?? args[++i] ?? '')
  }
  return ['daemon', ...(operation === undefined ? [] : [operation]), ...options]
}
