import { show } from '../text/diagnostic.ts'

/** Folders of output/ that no answer may shadow. */
const reserved = new Set(['superseded', 'jobs', 'vms'])
const longest = 200

/** What the answer of a batch is called ends in this, which keeps it apart from the answers of its VMs. */
export const batchSuffix = '.batch'

/** The same for a VM job: the answer files of a conversion may be called as its VM is. */
export const vmSuffix = '.vm'

function fault(s: string): string | undefined {
  if (s === '') return 'it is empty'
  if (!s.isWellFormed()) return 'it contains half a Unicode character'
  if (s.includes('/')) return 'it contains "/"'
  if (s.startsWith('.')) return 'it starts with a dot'
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(s)) return 'it contains a control character'
  if (Buffer.byteLength(s) > longest) return `it is longer than ${longest} bytes`
  if (reserved.has(s)) return `"${s}" is a folder of the output`
  return undefined
}

/** Can this be the name of answer files: one plain path component of 1 to 200 bytes that hides nothing and escapes nowhere? */
export function safeName(s: string): boolean {
  return fault(s) === undefined
}

/** Why safeName() said no, as the end of a sentence. */
export function unsafeNameReason(s: string): string {
  return `${show(s)} cannot name the answer files: ${fault(s) ?? 'it is not usable'}. Use one plain file name without "/" that does not start with a dot`
}
