/** Builds the simulation, with or without a bug planted in the spool's source, and runs it in a process of its own. */
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { build } from 'esbuild'

export interface Plant {
  /** file of src/spool/ */
  file: string
  /** must occur exactly once */
  find: string
  replace: string
}

export interface SimReport {
  seeds: number
  steps: number
  violations: number
  failures: { seed: number; weather: string; violation: string }[]
  seconds: number
}

/** Bundles test/sim/run.ts into `dir`; each plant changes one place of the real source. */
export async function bundle(dir: string, name: string, plants: readonly Plant[]): Promise<string> {
  const outfile = join(dir, `${name.replace(/\W+/g, '-')}.mjs`)
  const planted = new Set<Plant>()
  await build({
    entryPoints: [join(import.meta.dirname, 'run.ts')],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node26',
    logLevel: 'silent',
    plugins: [
      {
        name: 'plant',
        setup(b) {
          b.onLoad({ filter: /src\/spool\/[^/]+\.ts$/ }, async ({ path }) => {
            let contents = await readFile(path, 'utf8')
            for (const plant of plants) {
              if (plant.file !== basename(path)) continue
              if (contents.split(plant.find).length !== 2)
                throw new Error(`${plant.file} does not contain once: ${plant.find}`)
              contents = contents.replace(plant.find, () => plant.replace)
              planted.add(plant)
            }
            return { contents, loader: 'ts' }
          })
        },
      },
    ],
  })
  if (planted.size !== plants.length) throw new Error(`${plants.length - planted.size} bugs were not planted.`)
  return outfile
}

export function simulate(
  script: string,
  from: number,
  count: number,
  flags: readonly string[] = [],
): Promise<SimReport> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, String(from), String(count), ...flags], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let out = ''
    let err = ''
    child.stdout.on('data', (d) => {
      out += d
    })
    child.stderr.on('data', (d) => {
      err += d
    })
    child.on('error', reject)
    child.on('close', (code) => {
      try {
        resolve(JSON.parse(out))
      } catch {
        reject(new Error(`The simulation ended with ${code}: ${err.slice(-2000)}`))
      }
    })
  })
}
