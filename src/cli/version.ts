import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/**
 * The folder of the package this file belongs to: found by climbing, because the file lies at another depth in a
 * checkout (src/cli/) than in a bundle (dist/).
 */
export function packageRoot(): string {
  for (let dir = import.meta.dirname; ; dir = dirname(dir)) {
    try {
      const manifest = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8')) as { name?: string }
      if (manifest.name === 'vmspool') return dir
    } catch {
      // no package.json here: one higher
    }
    if (dir === dirname(dir)) throw new Error('The package.json of vmspool was not found above its own program files.')
  }
}

export function version(): string {
  const manifest = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }
  return manifest.version
}
