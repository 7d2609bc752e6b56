/** Diagnostics the way compilers print them, so that editors can jump to them. */
import type { Diagnostic } from '../manifest/index.ts'
import { sentenceOf } from '../client/errors.ts'
import { type Paint, painted } from './output.ts'

/** "file:3:18: error: disks[0].source_format: …" with what is allowed and what was probably meant on lines of their own. */
export function diagnosticText(file: string, d: Diagnostic, colour: boolean): string {
  const at = d.line === undefined ? file : `${file}:${d.line}${d.column === undefined ? '' : `:${d.column}`}`
  const tint: Paint = d.severity === 'error' ? 'red' : 'yellow'
  const severity = colour ? painted(tint, d.severity) : d.severity
  const lines = [`${at}: ${severity}: ${sentenceOf(d)}`]
  if (d.allowed !== undefined && d.allowed.length > 0 && !d.allowed.every((a) => d.message.includes(a))) {
    lines.push(`    allowed: ${d.allowed.join(', ')}`)
  }
  if (d.suggestion !== undefined && !d.message.includes(d.suggestion))
    lines.push(`    did you mean ${JSON.stringify(d.suggestion)}?`)
  return lines.join('\n')
}
