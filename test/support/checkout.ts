// A copy of the checkout, built: what is packed from it cannot meet another test's dist/.
import { execFile } from 'node:child_process'
import { cp, mkdir, readdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { home } from './agent.ts'

const exec = promisify(execFile)

const parts = [
  'bin',
  'src',
  'scripts',
  'packaging',
  'schemas',
  'conf',
  'systemd',
  'docs',
  'install',
  'install.sh',
  'package.json',
  'package-lock.json',
  'tsconfig.json',
  'README.md',
  'CHANGELOG.md',
  'LICENSE',
]

/**
 * @param o.types with the declarations for those who import it
 * @returns its folder, in `dir`
 */
export async function builtCheckout(
  dir: string,
  o: { env?: NodeJS.ProcessEnv; types?: boolean } = {},
): Promise<string> {
  const copy = join(dir, 'checkout')
  const there = new Set(await readdir(home))
  await mkdir(copy)
  for (const part of parts) if (there.has(part)) await cp(join(home, part), join(copy, part), { recursive: true })
  await symlink(join(home, 'node_modules'), join(copy, 'node_modules'))
  const argv = [join(copy, 'scripts/build.ts'), ...(o.types ? [] : ['--no-types'])]
  await exec(join(home, 'node_modules/.bin/node'), argv, { cwd: copy, env: o.env ?? process.env })
  return copy
}
