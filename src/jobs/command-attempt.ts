/** Which try a shim's folder belongs to: a program is taken over by another attempt at the same try, and by no later try. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { errno } from '../process/errno.ts'

const FILE = 'try'

/** MUST come before the program starts. `failures`: how many attempts of the job had failed before. */
export function markTry(dir: string, failures: number): void {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  writeFileSync(join(dir, FILE), `${failures}\n`)
}

/** undefined when nothing was started there */
export function tryOf(dir: string): number | undefined {
  try {
    return Number(readFileSync(join(dir, FILE), 'utf8'))
  } catch (error) {
    const code = errno(error)
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ESTALE') return undefined
    throw error
  }
}
