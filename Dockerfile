# docker build -t cryoem .
# docker run --rm -v "$PWD:/job" cryoem check job.star
# docker run --rm -p 8888:8888 -v "$PWD:/job" --entrypoint jupyter cryoem \
#     lab --ip=0.0.0.0 --allow-root --ServerApp.root_dir=/ \
#     --LabApp.default_url=/lab/tree/opt/cryoem/notebooks/index.ipynb
# Notebooks that are saved in /opt/cryoem are lost with the container; save them in /job.
FROM python:3.11-slim
COPY . /opt/cryoem
RUN pip install --no-cache-dir /opt/cryoem
# runs and downloads are written to the mounted folder
ENV CRYOEM_HOME=/job/data
WORKDIR /job
ENTRYPOINT ["cryoem"]
