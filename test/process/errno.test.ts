// What Node has no name for. The errors are the kernel's, as far as the process can tell: strace puts them into its system calls.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { home } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'

/** What a program prints whose nth call of `call` on `path` ends with `error`. */
async function injected(path: string, call: string, error: string, code: string): Promise<string> {
  const argv = [
    ...['-f', '-qq', '-o', '/dev/null', '-P', path, '-e', `trace=${call}`, '-e', `inject=${call}:${error}`],
    ...[process.execPath, '--input-type=module-typescript', '-e', code],
  ]
  const { stdout } = await execa('strace', argv, { env: { UV_THREADPOOL_SIZE: '1' } }) // strace counts calls by thread
  return stdout
}

test('a file that another host replaced while it was read is read again', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'lease.json')
  await writeFile(path, 'new')
  const read = `
    import { nodeFs } from '${home}/src/spool/fs.ts'
    const { bytes } = await nodeFs(() => false).readFile('${path}')
    console.log(String(bytes))`
  expect(await injected(path, 'pread64', 'error=ESTALE:when=1', read)).toBe('new')
})

test('a stale handle and a used-up quota have their names', async () => {
  await using dir = await tempDir()
  const path = join(dir.path, 'file')
  await writeFile(path, 'x')
  const code = `
    import { readFileSync, writeFileSync } from 'node:fs'
    import { errno } from '${home}/src/process/errno.ts'
    try { ACT } catch (error) { console.log(errno(error)) }`
  const read = code.replace('ACT', `readFileSync('${path}')`)
  const write = code.replace('ACT', `writeFileSync('${path}', 'y')`)
  expect(await injected(path, 'read', 'error=ESTALE', read)).toBe('ESTALE')
  expect(await injected(path, 'write', 'error=EDQUOT', write)).toBe('EDQUOT')
})
